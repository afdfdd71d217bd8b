"""Rounding that makes later columns of a weight answer for the error of earlier ones.

Source: GPTQ (arXiv 2210.17323), with columns in falling order of their inputs' energy and scales fixed before the first is rounded.
"""

from dataclasses import replace

import torch
from torch import Tensor

from quatro.format.codebooks import CodeTable
from quatro.format.errors import InputError, NonFiniteError, ShapeError
from quatro.format.layout import SMALLEST_SCALE
from quatro.format.spec import QuantSpec
from quatro.kernels.reference import check_finite, nearest, pack
from quatro.tensor.quantized import QuantizedTensor, quantize_with

DAMPING = 0.01
"""Share of the mean of the Hessian's diagonal that is added to it: GPTQ's, against directions the calibration never showed."""


def quantize_compensated(
    w: Tensor, hessian: Tensor, spec: QuantSpec | None = None, damping: float = DAMPING, name: str = "w"
) -> QuantizedTensor:
    """Quantize w (out, in) so that x w^T changes least for inputs x with x^T x = hessian, rather than w itself.

    hessian: float32 (in, in), symmetric, no negative eigenvalue; its scale does not matter. The result is laid out as
    `quantize_with` lays it out and its scales are the same; only the codes differ. name: what an error calls w.
    Raises ShapeError where the two do not fit, NonFiniteError for NaN or Inf, InputError for a spec with zero points.
    """
    chosen = spec or QuantSpec()
    _check(w, hessian, chosen, damping, name)
    plain = quantize_with(w, chosen, name)
    table = chosen.code_table
    scales = plain.scales.repeat_interleave(chosen.block_size)[: w.numel()].view(w.shape)
    positions = _rounded(w.float(), scales, _factor(hessian, damping), table)
    codes = torch.tensor(table.order, dtype=torch.uint8, device=w.device)[positions]
    return replace(plain, codes=pack(codes.flatten(), table.zero_code).view(plain.codes.shape))


def _check(w: Tensor, hessian: Tensor, spec: QuantSpec, damping: float, name: str) -> None:
    if w.dim() != 2 or hessian.shape != (w.shape[1], w.shape[1]):
        raise ShapeError(
            f"{name} of shape {tuple(w.shape)} needs a Hessian of one row and column an input, got {tuple(hessian.shape)}"
        )
    if not spec.symmetric:
        raise InputError(f"{spec.quant_type} with zero points cannot be rounded against a Hessian; choose symmetric=True")
    if not damping > 0:
        raise InputError(f"damping {damping!r} is not possible; it is a share above 0, e.g. {DAMPING}")
    try:
        check_finite(hessian)
    except NonFiniteError as error:
        raise NonFiniteError(f"the Hessian of {name}", error.index, error.value) from None


def _factor(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The order of columns (in,), and the upper Cholesky factor of the damped inverse in that order, float64 (in, in)."""
    order = hessian.diag().argsort(descending=True, stable=True)
    matrix = hessian.double()[order][:, order]
    level = matrix.diag().mean()
    matrix.diagonal().add_(damping * level if level > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return order, torch.linalg.cholesky(inverse, upper=True)


def _rounded(w: Tensor, scales: Tensor, factor: tuple[Tensor, Tensor], table: CodeTable) -> Tensor:
    """Sorted table positions (out, in), int64."""
    order, upper = factor
    rest, steps = w[:, order].double(), scales[:, order].clamp(min=SMALLEST_SCALE)
    values = torch.tensor([table.values[code] for code in table.order], device=w.device)
    positions = torch.empty(w.shape, dtype=torch.int64, device=w.device)
    for column in range(w.shape[1]):
        target, scale = rest[:, column], steps[:, column]
        found = nearest((target / scale).float().clamp(-table.full_scale, table.full_scale), table.thresholds)
        positions[:, order[column]] = found
        error = (target - values[found] * scale) / upper[column, column]
        rest[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return positions
