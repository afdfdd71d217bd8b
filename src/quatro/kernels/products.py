"""Products with a 4-bit weight: what they are told, and how they run in floating point on any backend."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from quatro.format.codebooks import CodeTable
from quatro.kernels.scratch import scratch


class StoredWeight(NamedTuple):
    """A weight (out, in) as a layer holds it.

    codes uint8 (out, in / 2) · absmax float32, or uint8 where nested_absmax float32 (groups,) and nested_offset float32 () say
    how it is read · zeros float32, affine tables only.
    """

    codes: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_offset: Tensor | None
    zeros: Tensor | None
    table: CodeTable
    block_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.codes.shape[0], self.codes.shape[1] * 2


class Dequantizer(Protocol):
    """The part of a backend that products in floating point need."""

    def dequantize(
        self, codes: Tensor, scales: Tensor, zeros: Tensor | None, table: CodeTable, count: int, block_size: int, out: Tensor
    ) -> Tensor:
        """Codes -> weights, written to out."""

    def dequantize_scales(self, codes: Tensor, group_absmax: Tensor, mean: Tensor) -> Tensor:
        """8-bit codes -> scales."""


def dequantize_into(out: Tensor, weight: StoredWeight, kernels: Dequantizer) -> Tensor:
    """Write all weights to `out`, whose elements are as many and whose dtype is theirs from then on."""
    scales = weight.absmax.flatten()
    if weight.nested_absmax is not None and weight.nested_offset is not None:
        scales = kernels.dequantize_scales(scales, weight.nested_absmax.flatten(), weight.nested_offset)
    zeros = None if weight.zeros is None else weight.zeros.flatten()
    kernels.dequantize(weight.codes.flatten(), scales, zeros, weight.table, out.numel(), weight.block_size, out.flatten())
    return out


def float_linear(x: Tensor, weight: StoredWeight, bias: Tensor | None, dtype: torch.dtype, kernels: Dequantizer) -> Tensor:
    """x (rows, in) -> x W^T + bias (rows, out) in x's dtype, computed in `dtype`. A row with a NaN or an Inf becomes NaN."""
    wide_bias = None if bias is None else bias.to(dtype)
    with in_given_dtypes(x.device.type):
        product = torch.nn.functional.linear(x.to(dtype), _dense(weight, dtype, kernels), wide_bias)
    return _mark_broken(product, x).to(x.dtype)


def float_linear_backward(grad: Tensor, weight: StoredWeight, dtype: torch.dtype, kernels: Dequantizer) -> Tensor:
    """grad (rows, out) -> grad W (rows, in) in grad's dtype, computed in `dtype`. A row with a NaN or an Inf becomes NaN."""
    with in_given_dtypes(grad.device.type):
        product = torch.matmul(grad.to(dtype), _dense(weight, dtype, kernels))
    return _mark_broken(product, grad).to(grad.dtype)


def in_given_dtypes(device_type: str) -> AbstractContextManager[object]:
    """Products keep the dtypes they were given: autocast, which reaches inside ops, would choose again."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()


def _dense(weight: StoredWeight, dtype: torch.dtype, kernels: Dequantizer) -> Tensor:
    """The dense weight (out, in) on the shared scratch buffer."""
    return dequantize_into(scratch(weight.shape, dtype, weight.codes.device), weight, kernels)


def _mark_broken(product: Tensor, source: Tensor) -> Tensor:
    return product.masked_fill_(~torch.isfinite(source).all(-1, keepdim=True), torch.nan)
