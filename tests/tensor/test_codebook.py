import pytest
import torch

import quatro
from quatro.format.codebooks import NF4
from quatro.format.errors import CodebookError, NonFiniteError


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_table_has_two_to_the_bits_ascending_values_from_minus_one_to_one(bits):
    table = quatro.codebook(torch.randn(10_000), bits)
    assert len(table) == 2**bits
    assert list(table) == sorted(set(table))
    assert max(abs(value) for value in table) == 1.0


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_zero_is_one_of_the_values(bits):
    assert 0.0 in quatro.codebook(torch.randn(10_000), bits)


def test_a_skewed_tensor_is_better_served_by_its_own_quantiles():
    w = torch.randn(200_000).abs() ** 1.5
    own = quatro.quantize(w, table=quatro.codebook(w, 4), double_quant=False)
    assert own.error(w)["mse"] < 0.7 * quatro.quantize(w, "nf4", double_quant=False).error(w)["mse"]


def test_normal_weights_give_nf4_again():
    table = torch.tensor(quatro.codebook(torch.randn(2_000_000), 4))
    assert (table - torch.tensor(NF4)).abs().max() < 0.01


def test_weights_of_one_sign_spend_every_code_on_it():
    assert min(quatro.codebook(torch.rand(10_000) + 0.1, 4)) == 0.0
    assert max(quatro.codebook(-torch.rand(10_000) - 0.1, 4)) == 0.0


def test_too_few_distinct_values_are_refused():
    with pytest.raises(CodebookError, match="too few distinct values"):
        quatro.codebook(torch.ones(100), 4)


@pytest.mark.parametrize("bits", [0, 5, 2.5])
def test_bits_beyond_a_nibble_are_refused(bits):
    with pytest.raises(CodebookError, match="takes 1, 2, 3 or 4"):
        quatro.codebook(torch.randn(100), bits)


def test_nan_is_refused():
    with pytest.raises(NonFiniteError):
        quatro.codebook(torch.tensor([1.0, torch.nan]))
