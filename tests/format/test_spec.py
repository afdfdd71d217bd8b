import pytest

from quatro.format.errors import BlockSizeError, CodebookError, QuantTypeError
from quatro.format.layout import BLOCK_SIZES
from quatro.format.spec import QuantSpec


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_every_allowed_block_size_is_taken(block_size):
    assert QuantSpec(block_size=block_size).block_size == block_size


@pytest.mark.parametrize("block_size", [0, 16, 63, 65, 8192, -64, 64.5, "64", None, True])
def test_another_block_size_is_answered_with_the_allowed_ones(block_size):
    with pytest.raises(BlockSizeError, match="choose one of 32, 64, 128, 256, 512, 1024, 2048, 4096"):
        QuantSpec(block_size=block_size)


def test_an_own_table_makes_the_type_custom():
    assert QuantSpec(table=(-1.0, 0.0, 1.0)).quant_type == "custom"


def test_an_own_table_and_a_named_type_contradict_each_other():
    with pytest.raises(QuantTypeError, match="leave quant_type out"):
        QuantSpec("fp4", table=(-1.0, 1.0))


def test_custom_without_a_table_is_refused():
    with pytest.raises(CodebookError, match="has 0"):
        QuantSpec("custom")


def test_specs_are_values():
    assert QuantSpec() == QuantSpec("nf4", 64, True)
    assert len({QuantSpec(), QuantSpec(), QuantSpec("fp4")}) == 2
