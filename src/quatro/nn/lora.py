"""A low-rank adapter on a frozen 4-bit weight: the base's product and the adapter's in one step, forward and backward.

Shapes: x (..., in) · A (r, in) · B (out, r) · mask (..., in) uint8 · u = (x * mask) A^T (..., r) · y (..., out).
The method is LoRA (2106.09685) on a 4-bit base (QLoRA, 2305.14314); the numbers are those of PEFT's lora.Linear.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from quatro.format.errors import InputError, ShapeError
from quatro.kernels import ops
from quatro.kernels.compute import product_dtypes
from quatro.kernels.dispatch import chosen_name
from quatro.kernels.products import in_given_dtypes
from quatro.nn.linear import Linear4bit, nobody_watches

STRIP = 64
"""Tokens whose masked or widened copy is made at a time on a CPU."""


def lora_linear(x: Tensor, layer: Linear4bit, a: Tensor, b: Tensor, scaling: float, dropout: float = 0.0) -> Tensor:
    """layer(x) + scaling * (drop(x) A^T) B^T, in the dtype that layer(x) has. x (..., in) -> (..., out).

    a, b: A (r, in) and B (out, r), float32, bfloat16 or float16. Their products run in A's dtype, or autocast's; in float32
        on a CPU without units for that.
    dropout: the share of x that the adapter does not see, below 1; the mask is the one that nn.Dropout would draw.
    Kept for backward: x as it came, u (a row of r a token), with dropout one byte an element of x; no copies of the layer's
    parts, of A or of B, and nothing where gradients are off. Raises ShapeError, InputError.
    """
    _check(x, layer, a, b, dropout)
    output, compute = product_dtypes(x.dtype, x.device.type, layer.product_dtype)
    step = _both_products if nobody_watches(x) else lora_linear_op
    y, _ = step(
        x,
        a,
        b,
        _kept_by_dropout(x, a.dtype, dropout) if dropout else None,
        layer.weight,
        layer.absmax,
        layer.nested_absmax,
        layer.nested_offset,
        layer.zeros,
        layer.bias,
        layer.spec.quant_type,
        layer.spec.table,
        layer.spec.block_size,
        compute,
        layer.precision,
        chosen_name(x.device.type),
        scaling / (1 - dropout),
        output,
        product_dtypes(a.dtype, x.device.type, "auto")[1],
    )
    return y


def _check(x: Tensor, layer: Linear4bit, a: Tensor, b: Tensor, dropout: float) -> None:
    if x.shape[-1] != layer.in_features:
        raise ShapeError(f"this layer takes rows of {layer.in_features}, got an input of shape {tuple(x.shape)}")
    if a.dim() != 2 or (a.shape[1], *b.shape) != (layer.in_features, layer.out_features, a.shape[0]):
        raise ShapeError(
            f"an adapter of a layer {layer.in_features} -> {layer.out_features} is A (r, {layer.in_features}) and "
            f"B ({layer.out_features}, r), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is a share of the inputs, 0 or more and below 1; got {dropout}")


def _kept_by_dropout(x: Tensor, dtype: torch.dtype, dropout: float) -> Tensor:
    """What nn.Dropout would keep of x cast to dtype: the same draws from the same generator."""
    if x.device.type == "cpu":
        return torch.empty_like(x, dtype=torch.uint8).bernoulli_(1 - dropout)
    return torch.native_dropout(x.detach().to(dtype), dropout, True)[1].view(torch.uint8)


def _both_products(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
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
    scale: float,
    output_dtype: torch.dtype,
    adapter_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """-> y = x W^T + bias + scale * u B^T in output_dtype, u in adapter_dtype."""
    weight = ops.stored_weight(codes, absmax, nested_absmax, nested_offset, zeros, quant_type, table, block_size)
    with in_given_dtypes(x.device.type):
        y = ops.linear_now(x.to(output_dtype), weight, bias, compute_dtype, precision, backend)
        u = _low_rank(x, mask, a.to(adapter_dtype))
        _add_product(y.view(-1, y.shape[-1]), u, b.to(adapter_dtype).T, scale)
    return y, u.view(*x.shape[:-1], a.shape[0])


lora_linear_op = torch.library.custom_op("quatro::lora_linear", _both_products, mutates_args=())


@lora_linear_op.register_fake
def _(x: Tensor, a: Tensor, b: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    output_dtype, adapter_dtype = others[-2:]
    tokens = x.shape[:-1]
    return x.new_empty((*tokens, b.shape[0]), dtype=output_dtype), x.new_empty((*tokens, a.shape[0]), dtype=adapter_dtype)


@torch.library.custom_op("quatro::lora_linear_backward", mutates_args=())
def lora_linear_backward_op(
    grad: Tensor,
    a: Tensor,
    b: Tensor,
    x: Tensor | None,
    u: Tensor | None,
    mask: Tensor | None,
    codes: Tensor | None,
    absmax: Tensor | None,
    nested_absmax: Tensor | None,
    nested_offset: Tensor | None,
    zeros: Tensor | None,
    quant_type: str,
    table: Sequence[float] | None,
    block_size: int,
    compute_dtype: torch.dtype,
    precision: str,
    backend: str,
    scale: float,
    adapter_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad (..., out) -> gradients to x in grad's dtype, to A, to B; empty where codes, x or u is None."""
    for_x, for_a, for_b = grad.new_empty(0), a.new_empty(0), b.new_empty(0)
    with in_given_dtypes(grad.device.type):
        rows = _rows_of(grad).to(adapter_dtype)
        through_b = rows @ b.to(adapter_dtype)
        if codes is not None and absmax is not None:
            parts, choices = (codes, absmax, nested_absmax, nested_offset, zeros), (quant_type, table, block_size)
            for_x = ops.linear_backward(grad, *parts, *choices, compute_dtype, precision, backend)
            _add_masked_product(for_x.view(-1, for_x.shape[-1]), through_b, a.to(adapter_dtype), mask, scale)
        if x is not None:
            for_a = _gradient_to_a(through_b, x, mask).mul_(scale).to(a.dtype)
        if u is not None:
            for_b = (_rows_of(u).T @ rows).mul_(scale).T.contiguous().to(b.dtype)
    return for_x, for_a, for_b


@lora_linear_backward_op.register_fake
def _(
    grad: Tensor, a: Tensor, b: Tensor, x: Tensor | None, u: Tensor | None, mask: Tensor | None, codes: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        grad.new_empty(0 if codes is None else (*grad.shape[:-1], a.shape[1])),
        a.new_empty(0 if x is None else a.shape),
        b.new_empty(0 if u is None else b.shape),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the wanted gradients need: x for A, u for B, the stored 4-bit parts (no copy) for x."""
    x, a, b, mask, *parts, bias = inputs[:10]
    *ctx.choices, _, ctx.adapter_dtype = inputs[10:]
    ctx.input_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
    to_x, to_a, to_b, *_ = ctx.needs_input_grad
    wanted = (x if to_a else None, output[1] if to_b else None, mask if to_x or to_a else None)
    ctx.save_for_backward(a, b, *wanted, *(parts if to_x else (None,) * 5))
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients to x, A, B and, where it is trained, the bias."""
    for_x, for_a, for_b = lora_linear_backward_op(grad, *ctx.saved_tensors, *ctx.choices, ctx.adapter_dtype)
    to_x, to_a, to_b, *_, to_bias = ctx.needs_input_grad[:10]
    return (
        for_x.to(ctx.input_dtype) if to_x else None,
        for_a if to_a else None,
        for_b if to_b else None,
        *(None,) * 6,
        _rows_of(grad).sum(0).to(ctx.bias_dtype) if to_bias else None,
        *(None,) * 9,
    )


lora_linear_op.register_autograd(_gradients, setup_context=_save_for_backward)


def _low_rank(x: Tensor, mask: Tensor | None, a: Tensor) -> Tensor:
    """u = (x * mask) A^T (tokens, r), in A's dtype."""
    u = a.new_empty(x.numel() // x.shape[-1], a.shape[0])
    for tokens, seen in _seen(x, mask, a.dtype):
        torch.mm(seen, a.T, out=u[tokens])
    return u


def _gradient_to_a(through_b: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """(grad B)^T (x * mask) (r, in), summed in float32."""
    total = through_b.new_zeros(through_b.shape[1], x.shape[-1], dtype=torch.float32)
    for tokens, seen in _seen(x, mask, through_b.dtype):
        _add_product(total, through_b[tokens].T, seen, 1.0)
    return total


def _add_masked_product(total: Tensor, left: Tensor, right: Tensor, mask: Tensor | None, scale: float) -> None:
    """total (tokens, n) += scale * left (tokens, k) @ right (k, n) * mask, in place."""
    if mask is None:
        _add_product(total, left, right, scale)
        return
    kept = _rows_of(mask)
    for tokens in _strips(total):
        total[tokens].add_((left[tokens] @ right).mul_(kept[tokens]), alpha=scale)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total (m, n) += scale * left (m, k) @ right (k, n), in place."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)


def _seen(x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """x * mask in dtype, as (tokens, in): x itself where that is it, else strips of a copy that nobody keeps."""
    rows = _rows_of(x)
    if mask is None and rows.dtype == dtype:
        yield slice(None), rows
        return
    for tokens in _strips(rows):
        strip = rows[tokens].to(dtype)
        yield tokens, strip if mask is None else strip * _rows_of(mask)[tokens]


def _strips(rows: Tensor) -> Iterator[slice]:
    """Slices of tokens whose temporaries stay in a CPU's cache; other devices take all at once."""
    step = STRIP if rows.device.type == "cpu" else max(len(rows), 1)
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _rows_of(tensor: Tensor) -> Tensor:
    """(..., n) -> (tokens, n)."""
    return tensor.reshape(-1, tensor.shape[-1])
