"""The operations torch sees: few, coarse, with schema, shape rule and gradient, traceable under torch.compile(fullgraph=True).

Shapes: w (n,) · codes uint8 with (n + 1) // 2 elements · absmax float32 (blocks,), or uint8 where nested_absmax float32
(groups,) and nested_offset float32 () say how to read it · zeros float32 (blocks,) for affine tables · table: a user's own values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quatro.format.codebooks import CodeTable, code_table
from quatro.format.layout import GROUP, block_count, code_bytes
from quatro.kernels.dispatch import by_name, takes_integers
from quatro.kernels.products import StoredWeight, dequantize_into, float_linear, float_linear_backward


@torch.library.custom_op("quatro::quantize", mutates_args=())
def quantize(
    w: Tensor, quant_type: str, table: Sequence[float] | None, symmetric: bool, block_size: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """w of any shape -> codes, scales, zeros (empty where the table is symmetric)."""
    codes, scales, zeros = by_name(backend).quantize(
        w.detach().contiguous().flatten(), _table(quant_type, table, symmetric), block_size, not symmetric
    )
    return codes, scales, scales.new_empty(0) if zeros is None else zeros


@quantize.register_fake
def _(
    w: Tensor, quant_type: str, table: Sequence[float] | None, symmetric: bool, block_size: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    blocks = block_count(w.numel(), block_size)
    scales = w.new_empty(blocks, dtype=torch.float32)
    return w.new_empty(code_bytes(w.numel()), dtype=torch.uint8), scales, scales.new_empty(0 if symmetric else blocks)


@torch.library.custom_op("quatro::quantize_scales", mutates_args=())
def quantize_scales(scales: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """scales float32 of any shape -> 8-bit codes (blocks,), group absmax (groups,), mean ()."""
    return by_name(backend).quantize_scales(scales.contiguous().flatten())


@quantize_scales.register_fake
def _(scales: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    blocks = scales.numel()
    return scales.new_empty(blocks, dtype=torch.uint8), scales.new_empty(block_count(blocks, GROUP)), scales.new_empty(())


@torch.library.custom_op("quatro::dequantize_scales", mutates_args=())
def dequantize_scales(codes: Tensor, group_absmax: Tensor, mean: Tensor, backend: str) -> Tensor:
    """8-bit codes of any shape -> scales float32 (blocks,)."""
    return by_name(backend).dequantize_scales(codes.contiguous().flatten(), group_absmax.flatten(), mean)


@dequantize_scales.register_fake
def _(codes: Tensor, group_absmax: Tensor, mean: Tensor, backend: str) -> Tensor:
    return group_absmax.new_empty(codes.numel())


@torch.library.custom_op("quatro::dequantize", mutates_args=())
def dequantize(
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """-> weights of `shape` and `dtype`."""
    out = torch.empty(tuple(shape), dtype=dtype, device=codes.device)
    weight = stored_weight(codes, absmax, nested_absmax, nested_offset, zeros, quant_type, table, block_size)
    return dequantize_into(out, weight, by_name(backend))


@dequantize.register_fake
def _(
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return codes.new_empty(tuple(shape), dtype=dtype)


@torch.library.custom_op("quatro::linear", mutates_args=())
def linear(
    x: Tensor,
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    bias: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    compute_dtype: torch.dtype,
    precision: str,
    backend: str,
) -> Tensor:
    """x (..., in) -> x @ W^T + bias (..., out) in x's dtype; codes (out, in / 2).

    precision "high" takes the backend's integer product where it has one for this weight; "exact" computes in float32. What
    is neither runs in compute_dtype.
    """
    weight = stored_weight(codes, absmax, nested_absmax, nested_offset, zeros, quant_type, table, block_size)
    return linear_now(x, weight, bias, compute_dtype, precision, backend)


@linear.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    bias: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    compute_dtype: torch.dtype,
    precision: str,
    backend: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.custom_op("quatro::linear_backward", mutates_args=())
def linear_backward(
    grad: Tensor,
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    compute_dtype: torch.dtype,
    precision: str,
    backend: str,
) -> Tensor:
    """grad (..., out) -> grad @ W (..., in) in grad's dtype: the gradient to the input, computed as in `linear`."""
    kernels, weight = (
        by_name(backend),
        stored_weight(codes, absmax, nested_absmax, nested_offset, zeros, quant_type, table, block_size),
    )
    rows = grad.reshape(-1, grad.shape[-1])
    if precision == "high" and takes_integers(kernels, weight):
        product = kernels.integer_linear_backward(rows, weight)
    else:
        product = float_linear_backward(rows, weight, _float_dtype(precision, compute_dtype), kernels)
    return product.view(*grad.shape[:-1], codes.shape[1] * 2)


@linear_backward.register_fake
def _(
    grad: Tensor,
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    compute_dtype: torch.dtype,
    precision: str,
    backend: str,
) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], codes.shape[1] * 2))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the stored 4-bit parts (no copy) and the choices made in forward."""
    _, codes, absmax, nested_absmax, nested_offset, zeros, _, *ctx.choices = inputs
    ctx.save_for_backward(codes, absmax, nested_absmax, nested_offset, zeros)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients to the input and, where it is trained, the bias."""
    to_input = linear_backward(grad, *ctx.saved_tensors, *ctx.choices) if ctx.needs_input_grad[0] else None
    to_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[6] else None
    return to_input, *(None,) * 5, to_bias, *(None,) * 6


linear.register_autograd(_gradients, setup_context=_save_for_backward)


def _table(quant_type: str, values: Sequence[float] | None, symmetric: bool) -> CodeTable:
    return code_table(quant_type, None if values is None else tuple(values), symmetric)


def linear_now(
    x: Tensor, weight: StoredWeight, bias: Tensor | None, compute_dtype: torch.dtype, precision: str, backend: str
) -> Tensor:
    """What `linear` computes, without a node for autograd or torch.compile: for inference, where the op costs more than a small product."""
    kernels, rows = by_name(backend), x.reshape(-1, x.shape[-1])
    if precision == "high" and takes_integers(kernels, weight):
        product = kernels.integer_linear(rows, weight, bias)
    else:
        product = float_linear(rows, weight, bias, _float_dtype(precision, compute_dtype), kernels)
    return product.view(*x.shape[:-1], weight.shape[0])


def stored_weight(
    codes: Tensor,
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
) -> StoredWeight:
    """The parts of a weight with the meaning of its codes; the arguments of the ops, less the choices."""
    meaning = _table(quant_type, table, zeros is None)
    return StoredWeight(codes, absmax, nested_absmax, nested_offset, zeros, meaning, block_size)


def _float_dtype(precision: str, compute_dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if precision == "exact" else compute_dtype
