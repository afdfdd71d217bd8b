from hypothesis import given
from hypothesis import strategies as st

from quatro.format.layout import BLOCK_SIZES, block_count, code_bytes, group_count, stored_bytes


@given(st.integers(1, 10**7), st.sampled_from(BLOCK_SIZES))
def test_blocks_cover_all_weights_and_only_the_last_may_be_short(count, block_size):
    blocks = block_count(count, block_size)
    assert (blocks - 1) * block_size < count <= blocks * block_size


@given(st.integers(1, 10**7))
def test_two_codes_share_a_byte(count):
    assert code_bytes(count) in (count / 2, (count + 1) / 2)


def test_double_quantization_takes_4_127_bits_a_weight_at_block_64():
    count = 4096 * 4096
    assert round(8 * stored_bytes(count, 64, double_quant=True) / count, 3) == 4.127
    assert 8 * stored_bytes(count, 64, double_quant=False) / count == 4.5
    assert group_count(block_count(count, 64)) == 1024


def test_the_zero_points_of_affine_int4_are_counted():
    assert stored_bytes(1024, 64, False, affine=True) - stored_bytes(1024, 64, False) == 4 * 16
