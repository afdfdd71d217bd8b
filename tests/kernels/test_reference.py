import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quatro.format.codebooks import code_table
from quatro.format.errors import NonFiniteError
from quatro.format.layout import BLOCK_SIZES
from quatro.kernels import reference

TABLES = [("nf4", None, True), ("fp4", None, True), ("nf3", None, True), ("nf2", None, True), ("int4", None, True), ("int4", None, False),
          ("custom", (-1.0, 0.3, 0.5, 1.0), True), ("custom", (-0.5, 1.0), True)]  # fmt: skip


def round_trip(w, table, block_size, affine=False):
    codes, scales, zeros = reference.quantize(w, table, block_size, affine)
    return reference.dequantize(codes, scales, zeros, table, w.numel(), block_size, torch.full((w.numel(),), torch.nan)), codes


def nearest_by_search(w, table, block_size):
    """An independent oracle: try every table value in float64 and keep the closest, block by block."""
    values = torch.tensor(table.values, dtype=torch.float64)
    best = []
    for block in w.double().split(block_size):
        scale = block.abs().max() / table.full_scale
        candidates = values * scale
        best.append((block[:, None] - candidates).abs().amin(1))
    return torch.cat(best)


@pytest.mark.parametrize(("name", "values", "symmetric"), [t for t in TABLES if t[2]])
@pytest.mark.parametrize("block_size", [32, 64, 4096])
def test_every_weight_takes_the_nearest_value_of_its_table(name, values, symmetric, block_size):
    table, w = code_table(name, values, symmetric), torch.randn(5000)
    restored, _ = round_trip(w, table, block_size)
    distance = (restored.double() - w.double()).abs()
    # Scaling and the product round to float32: a tie may fall either way within a few units in the last place of absmax.
    assert (distance <= nearest_by_search(w, table, block_size) + 4 * 2**-24 * w.abs().max()).all()


@given(st.integers(1, 700), st.sampled_from(BLOCK_SIZES), st.sampled_from(TABLES), st.floats(1e-30, 1e30))
@settings(max_examples=60, deadline=None)
def test_the_error_is_below_half_the_widest_gap(count, block_size, which, magnitude):
    table = code_table(*which)
    w = torch.randn(count) * magnitude
    affine = not which[2]
    restored, _ = round_trip(w, table, block_size, affine)
    blocks = torch.nn.functional.pad(w, (0, -count % block_size)).view(-1, block_size)
    last = blocks[-1, : count - (len(blocks) - 1) * block_size] if count % block_size else blocks[-1]
    lows, highs = blocks.amin(1), blocks.amax(1)
    lows[-1], highs[-1] = last.amin(), last.amax()
    scale = (highs - lows) / 15 if affine else torch.maximum(highs.abs(), lows.abs()) / table.full_scale
    ends_out_of_reach = max(table.full_scale - max(table.values), min(table.values) + table.full_scale, 0.0)
    bound = torch.tensor(max(table.widest_gap / 2, 0.0 if affine else ends_out_of_reach)) * scale * (1 + 1e-4)
    per_weight = bound.repeat_interleave(block_size)[:count] + (2e-6 * w.abs().max() if affine else 0)
    assert ((restored - w).abs() <= per_weight).all()


@pytest.mark.parametrize(("name", "values", "symmetric"), TABLES)
def test_a_block_of_zeros_comes_back_as_exact_zeros(name, values, symmetric):
    w = torch.randn(256)
    w[64:128] = 0
    restored, _ = round_trip(w, code_table(name, values, symmetric), 64, not symmetric)
    assert torch.equal(restored[64:128], torch.zeros(64))
    assert restored[:64].abs().max() > 0


def test_affine_blocks_keep_their_minimum_and_constant_blocks_come_back_exact():
    w = torch.cat([torch.linspace(3, 5, 64), torch.full((64,), 7.25), torch.full((64,), -0.3), torch.zeros(64)])
    restored, _ = round_trip(w, code_table("int4", None, False), 64, affine=True)
    assert torch.equal(restored[64:], w[64:])
    assert abs(float(restored[0]) - 3.0) < 1e-5
    assert abs(float(restored[63]) - 5.0) < 1e-5


def test_ties_go_down():
    table = code_table("int4")
    w = torch.tensor([7.0, 0.5, -0.5, 1.5, 6.5])
    restored, _ = round_trip(w, table, 64)
    assert restored.tolist() == [7.0, 0.0, -1.0, 1.0, 6.0]


def test_the_first_weight_lies_in_the_high_nibble_and_an_odd_count_is_padded_with_zero():
    codes, _, _ = reference.quantize(torch.tensor([1.0, -1.0, 0.0]), code_table("nf4"), 64)
    assert [f"{byte:02x}" for byte in codes.tolist()] == ["f0", "77"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named_by_its_first_index(bad):
    w = torch.randn(500)
    w[[77, 300]] = bad
    with pytest.raises(NonFiniteError, match="flat index 77") as caught:
        reference.quantize(w, code_table("nf4"), 64)
    assert caught.value.index == 77


def test_the_mean_of_double_quantization_does_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    means = set()
    scales = torch.rand(100_003) * torch.logspace(-3, 3, 100_003)
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            means.add(float(reference.ordered_mean(scales)))
    finally:
        torch.set_num_threads(before)
    assert len(means) == 1
    assert means.pop() == pytest.approx(float(scales.double().mean()), rel=1e-7)


def test_double_quantization_errs_by_less_than_half_the_widest_gap_of_the_map():
    scales = torch.rand(3000) + 0.5
    codes, group_absmax, mean = reference.quantize_scales(scales)
    restored = reference.dequantize_scales(codes, group_absmax, mean)
    # The map's widest gap between neighbors is 0.9 / 64 (its last decade); -1 is not a value: the least is -(1 - 0.9 / 128).
    bound = group_absmax.repeat_interleave(256)[:3000] * (0.9 / 128 + 1e-6) + 1e-6
    assert ((restored - scales).abs() <= bound).all()


def test_equal_scales_survive_double_quantization_unchanged():
    scales = torch.full((500,), 0.37)
    assert torch.equal(reference.dequantize_scales(*reference.quantize_scales(scales)), scales)
