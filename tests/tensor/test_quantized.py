import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quatro
from quatro.format.errors import BlockSizeError, InputError, NonFiniteError, QuantTypeError, ShapeError
from quatro.format.layout import BLOCK_SIZES, stored_bytes


def test_the_textbook_block_is_quantized_as_written_by_hand():
    """Table {-1, 0.3, 0.5, 1}, block [10, -3, 5, 4]: 4 / 10 lies exactly between 0.3 and 0.5, and ties go down."""
    t = quatro.quantize(torch.tensor([10.0, -3.0, 5.0, 4.0]), table=[-1.0, 0.3, 0.5, 1.0], double_quant=False)
    assert [byte >> shift & 15 for byte in t.codes.tolist() for shift in (4, 0)] == [3, 1, 2, 1]
    assert t.dequantize().tolist() == pytest.approx([10, 3, 5, 3], rel=1e-6)


def test_with_4_1_in_the_textbook_block_both_roundings_agree():
    t = quatro.quantize(torch.tensor([10.0, -3.0, 5.0, 4.1]), table=[-1.0, 0.3, 0.5, 1.0], double_quant=False)
    assert t.dequantize().tolist() == pytest.approx([10, 3, 5, 5], rel=1e-6)


def test_small_blocks_confine_the_damage_of_an_outlier():
    """One -10 among values in [-3, 3]: alone in its block it spoils 31 neighbors, in one large block all 4095."""
    w = torch.rand(4096) * 6 - 3
    w[1000] = -10.0
    one_block = quatro.quantize(w, block_size=4096, double_quant=False)
    small_blocks = quatro.quantize(w, block_size=32, double_quant=False)
    clean = torch.ones(4096, dtype=torch.bool)
    clean[992:1024] = False
    damage = [(t.dequantize() - w)[clean].square().mean() for t in (one_block, small_blocks)]
    assert damage[0] > 2 * damage[1]
    assert one_block.error(w)["mse"] > 2 * small_blocks.error(w)["mse"]


def test_4_127_bits_a_weight_are_counted_from_the_real_bytes():
    t = quatro.quantize(torch.randn(1024, 4096))
    parts = [t.codes, t.absmax, t.nested_absmax, t.nested_offset]
    assert t.nbytes == sum(part.numel() * part.element_size() for part in parts)
    assert round(t.bits_per_weight, 3) == 4.127


@given(
    st.integers(1, 40), st.integers(1, 90), st.sampled_from(BLOCK_SIZES), st.booleans(),
    st.sampled_from(["nf4", "fp4", "int4", "nf3", "nf2", "affine", "own"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape_comes_back_in_its_shape_with_the_bytes_that_layout_promises(rows, columns, block_size, double_quant, kind):
    options = {"affine": {"quant_type": "int4", "symmetric": False}, "own": {"table": [-1.0, -0.1, 0.2, 1.0]}}
    t = quatro.quantize(
        torch.randn(rows, columns), block_size=block_size, double_quant=double_quant, **options.get(kind, {"quant_type": kind})
    )
    assert t.dequantize().shape == (rows, columns)
    assert torch.isfinite(t.dequantize()).all()
    expected = stored_bytes(rows * columns, block_size, double_quant, affine=kind == "affine")
    assert t.nbytes == expected + (16 if kind == "own" else 0)
    assert t.codes.shape == ((rows, columns // 2) if columns % 2 == 0 else ((rows * columns + 1) // 2,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dequantize_returns_the_sources_dtype_and_rounds_once(dtype):
    t = quatro.quantize(torch.randn(64, 64).to(dtype))
    assert t.dequantize().dtype == dtype
    assert torch.equal(t.dequantize(), t.dequantize(torch.float32).to(dtype))


def test_error_measures_what_was_lost():
    w = torch.randn(256, 256)
    t = quatro.quantize(w, double_quant=False)
    difference = (t.dequantize() - w).double()
    error = t.error(w)
    assert error["mse"] == pytest.approx(float(difference.square().mean()), rel=1e-9)
    assert error["max"] == pytest.approx(float(difference.abs().max()), rel=1e-9)
    assert error["snr_db"] == pytest.approx(10 * math.log10(float(w.double().square().mean()) / error["mse"]), rel=1e-9)
    zeros = torch.zeros(64)
    assert quatro.quantize(zeros).error(zeros)["snr_db"] == math.inf


def test_nf4_errs_on_normal_weights_as_published():
    w = torch.randn(1024, 1024)
    for quant_type, double_quant, mean_abs in [("nf4", False, 0.07279), ("nf4", True, 0.07286), ("fp4", False, 0.09661)]:
        t = quatro.quantize(w, quant_type, double_quant=double_quant)
        assert float((t.dequantize() - w).abs().mean()) == pytest.approx(mean_abs, rel=5e-3)


def test_a_value_that_is_not_finite_is_named_with_tensor_and_index():
    w = torch.randn(8, 64)
    w[3, 5] = torch.nan
    with pytest.raises(NonFiniteError, match="the weight of layer 7 holds nan at flat index 197"):
        quatro.quantize(w, name="the weight of layer 7")


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"quant_type": "nf5"}, QuantTypeError, "did you mean 'nf4'"),
        ({"block_size": 100}, BlockSizeError, "choose one of 32"),
        ({"symmetric": False}, QuantTypeError, "int4 only"),
    ],
)
def test_choices_that_do_not_exist_are_refused(arguments, error, complaint):
    with pytest.raises(error, match=complaint):
        quatro.quantize(torch.randn(64), **arguments)


@pytest.mark.parametrize(
    ("w", "error", "complaint"),
    [
        ([1.0, 2.0], InputError, "list"),
        (torch.ones(4, dtype=torch.int32), InputError, "torch.int32"),
        (torch.ones(4, dtype=torch.float64), InputError, r"\.float\(\)"),
        (torch.ones(0, 64), ShapeError, "no elements"),
    ],
)
def test_what_is_no_weight_is_refused(w, error, complaint):
    with pytest.raises(error, match=complaint):
        quatro.quantize(w)


def test_a_tensor_that_is_not_contiguous_is_quantized_in_its_own_order():
    w = torch.randn(64, 96).T
    assert torch.equal(quatro.quantize(w).codes, quatro.quantize(w.contiguous()).codes)


def test_source_and_error_shapes_must_agree():
    with pytest.raises(ShapeError, match=r"\(64,\)"):
        quatro.quantize(torch.randn(64)).error(torch.randn(65))


def test_an_affine_scale_stays_right_under_double_quantization():
    w = torch.rand(64, 256) + 4.0
    t = quatro.quantize(w, "int4", symmetric=False)
    assert t.error(w)["snr_db"] > 30
