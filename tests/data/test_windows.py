import pytest

from quatro.data.encode import IGNORED, Encoded
from quatro.data.windows import windows


@pytest.mark.parametrize("count", [2, 7, 8, 9, 15, 16, 50])
def test_every_token_but_the_first_is_learned_in_exactly_one_window(count: int) -> None:
    ids = list(range(100, 100 + count))
    pieces = windows(Encoded(ids, [IGNORED, *ids[1:]]), 8)
    assert all(2 <= len(piece.input_ids) <= 8 for piece in pieces)
    assert [label for piece in pieces for label in piece.labels if label != IGNORED] == ids[1:]
    assert all(piece.labels[0] == IGNORED for piece in pieces)


def test_a_short_text_is_one_window() -> None:
    encoded = Encoded([1, 2, 3], [IGNORED, 2, 3])
    assert windows(encoded, 8) == [encoded]
