"""In which dtype a product runs, and the dense products that must not run in 16 bits on CPUs that only emulate them."""

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from quatro.format.errors import InputError
from quatro.kernels import native
from quatro.kernels.compiling import constant_when_compiled
from quatro.kernels.dispatch import chosen_name
from quatro.kernels.scratch import scratch

logger = logging.getLogger("quatro")

COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@lru_cache(maxsize=1)
def cpu_has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX on x86, BF16 on Arm)."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def has_bf16_units() -> bool:
    """Whether the device that models are trained on, the GPU if there is one, multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bf16_units()


@constant_when_compiled
def product_dtypes(input_dtype: torch.dtype, device_type: str, wanted: str) -> tuple[torch.dtype, torch.dtype]:
    """(dtype of the output, dtype the product runs in).

    wanted: "auto" or a name of COMPUTE_DTYPES. Auto runs in the input's dtype where the device has units for it, else in
    float32. Under autocast the output has the autocast dtype, as torch's own linear has; a CPU without bf16 units stays in float32.
    """
    output = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else input_dtype
    slow = device_type == "cpu" and output != torch.float32 and not (output == torch.bfloat16 and cpu_has_bf16_units())
    if slow and torch.is_autocast_enabled(device_type):
        _say_autocast_is_wide()
        output = torch.float32
    if wanted != "auto":
        return output, named_dtype(wanted)
    return output, torch.float32 if slow else output


def hidden_dtype(weight_dtype: torch.dtype, device_type: str) -> torch.dtype:
    """The dtype of hidden states that start from an embedding: its own on a GPU, float32 on a CPU, whatever the checkpoint's is."""
    return torch.float32 if device_type == "cpu" else weight_dtype


def named_dtype(name: str) -> torch.dtype:
    """float32, bfloat16 or float16 by name. Raises InputError for another."""
    if name not in COMPUTE_DTYPES:
        raise InputError(f"compute_dtype {name!r} is unknown; choose one of auto, {', '.join(COMPUTE_DTYPES)}")
    return COMPUTE_DTYPES[name]


@lru_cache(maxsize=1)
def _say_autocast_is_wide() -> None:
    logger.warning(
        "this CPU has no bf16 units: under autocast quatro's layers compute in float32, which is faster and more exact here"
    )


FEW_ROWS = 8
"""Up to here a native product reads a 16-bit weight as it is; more rows share panels of it that were widened."""
PANEL_BYTES = 4 << 20
"""Of a weight in the dtype of the product: what fits a cache beside its factors."""


@torch.library.custom_op("quatro::dense_linear", mutates_args=())
def dense_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, output_dtype: torch.dtype, compute_dtype: torch.dtype
) -> Tensor:
    """x (..., in) @ weight (out, in)^T + bias, computed in compute_dtype without a copy of the weight in it: panels at most."""
    rows = x.reshape(-1, x.shape[-1]).to(compute_dtype)
    if rows.shape[0] <= FEW_ROWS and _is_native(weight, compute_dtype):
        product = native.dense_linear(rows, weight, bias)
    else:
        product = rows.new_empty(rows.shape[0], weight.shape[0])
        for first, panel in _panels(weight, compute_dtype):
            torch.mm(rows, panel.T, out=product[:, first : first + panel.shape[0]])
        if bias is not None:
            product += bias
    return product.to(output_dtype).view(*x.shape[:-1], weight.shape[0])


@dense_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, output_dtype: torch.dtype, compute_dtype: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=output_dtype)


@torch.library.custom_op("quatro::dense_linear_backward", mutates_args=())
def dense_linear_backward(grad: Tensor, weight: Tensor, input_dtype: torch.dtype, compute_dtype: torch.dtype) -> Tensor:
    """grad (..., out) -> grad @ weight (..., in) in input_dtype, computed as in `dense_linear`."""
    rows = grad.reshape(-1, grad.shape[-1]).to(compute_dtype)
    product = rows.new_zeros(rows.shape[0], weight.shape[1])
    for first, panel in _panels(weight, compute_dtype):
        product.addmm_(rows[:, first : first + panel.shape[0]], panel)
    return product.to(input_dtype).view(*grad.shape[:-1], weight.shape[1])


@dense_linear_backward.register_fake
def _(grad: Tensor, weight: Tensor, input_dtype: torch.dtype, compute_dtype: torch.dtype) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], weight.shape[1]), dtype=input_dtype)


def _is_native(weight: Tensor, compute_dtype: torch.dtype) -> bool:
    chosen = chosen_name(weight.device.type) == native.NAME
    return chosen and compute_dtype == torch.float32 and weight.dtype in (torch.bfloat16, torch.float16)


def _panels(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows of the weight in dtype): the whole weight where it has that dtype, else panels on the shared scratch buffer."""
    if weight.dtype == dtype:
        yield 0, weight
        return
    height = max(1, PANEL_BYTES // (weight.shape[1] * dtype.itemsize))
    for first in range(0, weight.shape[0], height):
        rows = weight[first : first + height]
        yield first, scratch(tuple(rows.shape), dtype, weight.device).copy_(rows)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, ctx.compute_dtype = inputs
    ctx.input_dtype = x.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x if weight.requires_grad else None, weight)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    to_input, to_weight, to_bias = ctx.needs_input_grad[:3]
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        dense_linear_backward(grad, weight, ctx.input_dtype, ctx.compute_dtype) if to_input else None,
        (rows.float().T @ x.reshape(-1, x.shape[-1]).float()).to(weight.dtype) if to_weight else None,
        rows.sum(0).to(ctx.bias_dtype) if to_bias else None,
        None,
        None,
    )


dense_linear.register_autograd(_gradients, setup_context=_save_for_backward)
