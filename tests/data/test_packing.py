import numpy as np
import pytest

from quatro.data.encode import IGNORED, Encoded
from quatro.data.packing import pack, packed
from quatro.data.tokens import token_rows


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_is_packed_once_and_no_row_overflows(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 33, 300).tolist()
    bins = pack(lengths, 64)
    assert sorted(index for group in bins for index in group) == list(range(300))
    assert all(sum(lengths[i] for i in group) <= 64 for group in bins)
    assert len(bins) <= 1.03 * np.ceil(sum(lengths) / 64) + 1, "best fit wastes next to nothing here"


def test_packing_is_the_same_each_time() -> None:
    assert pack([3, 5, 4, 4, 2], 8) == pack([3, 5, 4, 4, 2], 8) == [[1, 0], [2, 3], [4]]


def test_a_packed_row_restarts_positions_and_predicts_nothing_across_a_border() -> None:
    rows = token_rows([Encoded([1, 2, 3], [IGNORED, 2, 3]), Encoded([4, 5], [IGNORED, 5])])
    (row,) = [packed(rows, 8)[i] for i in range(len(packed(rows, 8)))]
    assert row["input_ids"].tolist() == [1, 2, 3, 4, 5]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1]
    assert row["labels"].tolist() == [IGNORED, 2, 3, IGNORED, 5]
