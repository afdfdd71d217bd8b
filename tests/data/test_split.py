import pytest

from quatro.data.encode import Encoded
from quatro.data.split import fingerprint, split
from quatro.format.errors import DatasetError


def _keys(*names: str) -> list[bytes]:
    return [name.encode() for name in names]


def test_a_fraction_of_the_distinct_rows_is_held_out_in_file_order() -> None:
    keys = _keys(*(f"row {i}" for i in range(100)))
    sides = split(keys, keys, 0.1, 0, texts=False)
    assert (len(sides.train), len(sides.held), sides.by) == (90, 10, "rows")
    assert sorted(sides.train + sides.held) == list(range(100))
    assert sides.train == sorted(sides.train)
    assert sides.held == sorted(sides.held)
    assert sides.held != list(range(90, 100)), "not simply the end"


def test_the_split_is_decided_by_the_seed() -> None:
    keys = _keys(*(f"row {i}" for i in range(100)))
    assert split(keys, keys, 0.1, 3, texts=False) == split(keys, keys, 0.1, 3, texts=False)
    assert split(keys, keys, 0.1, 3, texts=False) != split(keys, keys, 0.1, 4, texts=False)


def test_equal_rows_stand_on_one_side() -> None:
    keys = _keys(*(f"row {i % 10}" for i in range(60)))
    for seed in range(20):
        sides = split(keys, keys, 0.3, seed, texts=False)
        assert not {keys[i] for i in sides.train} & {keys[i] for i in sides.held}
        assert len(sides.held) == 18


def test_the_end_of_a_text_is_held_out_where_documents_are_too_few() -> None:
    pieces = _keys(*(f"window {i}" for i in range(20)))
    sides = split(_keys("one") * 20, pieces, 0.1, 0, texts=True)
    assert (sides.train, sides.held, sides.by) == (list(range(18)), [18, 19], "end")
    by_document = split(_keys(*"aabbccddee") * 2, pieces, 0.2, 0, texts=True)
    assert by_document.by == "rows"


def test_at_least_one_row_is_held_out_and_one_stays() -> None:
    keys = _keys("a", "b", "c")
    assert len(split(keys, keys, 0.01, 0, texts=False).held) == 1
    with pytest.raises(DatasetError, match="nothing to train on: there are 3 sequences, 1 of them different"):
        split(_keys("a") * 3, _keys("a") * 3, 0.5, 0, texts=False)


def test_fingerprints_tell_tokens_and_labels_apart() -> None:
    base = Encoded([1, 2], [-100, 2])
    assert fingerprint(base) == fingerprint(Encoded([1, 2], [-100, 2]))
    assert fingerprint(base) != fingerprint(Encoded([1, 2], [-100, -100]))
    assert fingerprint(base) != fingerprint(Encoded([1, 3], [-100, 3]))
