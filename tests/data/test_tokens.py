import numpy as np

from quatro.data.encode import IGNORED, Encoded
from quatro.data.tokens import token_rows

ENCODED = [Encoded([5, 6, 7], [IGNORED, 6, 7]), Encoded([9, 8], [IGNORED, 8]), Encoded([1] * 4, [IGNORED, IGNORED, 1, IGNORED])]


def test_rows_come_back_as_they_went_in() -> None:
    rows = token_rows(ENCODED)
    assert len(rows) == 3
    for found, encoded in zip(rows, ENCODED, strict=True):
        assert found["input_ids"].tolist() == encoded.input_ids
        assert found["labels"].tolist() == encoded.labels
        assert found["input_ids"].dtype == found["labels"].dtype == np.int64
    assert rows.lengths.tolist() == [3, 2, 4]
    assert rows.learned_tokens == 4


def test_a_view_shows_some_rows_without_a_copy() -> None:
    rows = token_rows(ENCODED)
    view = rows.only([2, 0])
    assert [item["input_ids"].tolist() for item in view] == [[1] * 4, [5, 6, 7]]
    assert view.lengths.tolist() == [4, 3]
    assert view.learned_tokens == 3
    assert view.ids is rows.ids
