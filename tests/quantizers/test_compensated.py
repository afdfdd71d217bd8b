"""Rounding that compensates its errors."""

import pytest
import torch
from torch import Tensor

from quatro.format.errors import InputError, NonFiniteError, ShapeError
from quatro.format.spec import QuantSpec
from quatro.quantizers import quantize_compensated
from quatro.tensor.quantized import quantize_with

SPECS = [QuantSpec(), QuantSpec("fp4", 32, False), QuantSpec("int4", 128), QuantSpec("nf3")]


def correlated(count: int, seed: int = 0) -> Tensor:
    """Inputs (4 count, count) of which a few directions carry most."""
    generator = torch.Generator().manual_seed(seed)
    rank = max(2, count // 8)
    mixed = torch.randn(4 * count, rank, generator=generator) @ torch.randn(rank, count, generator=generator)
    return mixed + 0.1 * torch.randn(4 * count, count, generator=generator)


def weight(rows: int, count: int) -> Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.quant_type}-{spec.block_size}")
@pytest.mark.parametrize("count", [128, 100])
def test_products_of_the_calibration_change_less_than_half_as_much_as_by_rounding(spec: QuantSpec, count: int) -> None:
    x, w = correlated(count), weight(24, count)
    found, plain = quantize_compensated(w, x.T @ x, spec), quantize_with(w, spec)
    errors = [(x @ (tensor.dequantize() - w).T).norm() for tensor in (found, plain)]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.quant_type}-{spec.block_size}")
@pytest.mark.parametrize("shape", [(8, 128), (6, 100)])
def test_inputs_without_correlation_make_it_plain_rounding(spec: QuantSpec, shape: tuple[int, int]) -> None:
    w = weight(*shape)
    found = quantize_compensated(w, torch.eye(shape[1]).mul(3.0), spec)
    scales = found.scales.repeat_interleave(spec.block_size)[: w.numel()].view(shape)
    values = torch.tensor(spec.code_table.values)
    nearest = (values * scales[..., None] - w[..., None]).abs().amin(-1)
    assert ((found.dequantize() - w).abs() <= nearest + 1e-6 * scales).all()


def test_only_the_codes_differ_from_plain_rounding() -> None:
    x, w = correlated(128), weight(8, 128)
    found, plain = quantize_compensated(w, x.T @ x), quantize_with(w, QuantSpec())
    assert torch.equal(found.absmax, plain.absmax)
    assert torch.equal(found.nested_absmax, plain.nested_absmax)
    assert found.codes.shape == plain.codes.shape
    assert not torch.equal(found.codes, plain.codes)


def test_inputs_that_are_always_zero_leave_plain_rounding() -> None:
    w = weight(4, 64)
    assert torch.equal(
        quantize_compensated(w, torch.zeros(64, 64), QuantSpec(double_quant=False)).codes,
        quantize_with(w, QuantSpec(double_quant=False)).codes,
    )


def test_what_cannot_be_meant_is_refused() -> None:
    w = weight(4, 64)
    with pytest.raises(ShapeError, match=r"w of shape \(4, 64\)"):
        quantize_compensated(w, torch.eye(4))
    with pytest.raises(InputError, match="zero points"):
        quantize_compensated(w, torch.eye(64), QuantSpec("int4", symmetric=False))
    with pytest.raises(InputError, match="damping"):
        quantize_compensated(w, torch.eye(64), damping=0.0)
    with pytest.raises(NonFiniteError, match="the Hessian of w"):
        quantize_compensated(w, torch.eye(64) * float("nan"))
