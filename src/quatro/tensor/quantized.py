"""The 4-bit tensor: codes and scales that know how to become weights again."""

import math
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from quatro.format.codebooks import CUSTOM
from quatro.format.errors import InputError, NonFiniteError, ShapeError
from quatro.format.spec import QuantSpec
from quatro.kernels import ops
from quatro.kernels.dispatch import chosen_name

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class QuantizationError(TypedDict):
    """How far a 4-bit tensor is from its source: mean squared and largest absolute error, signal-to-noise ratio in decibel."""

    mse: float
    max: float
    snr_db: float


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor of `shape`, stored in 4 bits a weight.

    codes: uint8, first weight in the high nibble; (out, in / 2) for a matrix with even rows, else flat ((n + 1) // 2,).
    absmax: a block's scale; float32 (blocks,), or with double quantization uint8 codes of the 8-bit dynamic map.
    nested_absmax, nested_offset: float32 (groups,) and (): how to read uint8 absmax. zeros: float32 (blocks,), affine int4 only.
    dtype: the source's, and dequantize's default.
    """

    codes: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_offset: Tensor | None
    zeros: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    spec: QuantSpec = field(default_factory=QuantSpec)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Weights of `shape`: table[code] * scale in float32, rounded once to dtype (default: the source's)."""
        target = dtype or self.dtype
        if target not in DTYPES:
            raise InputError(f"dtype {target} is not one a weight can have; choose float32, bfloat16 or float16")
        backend = chosen_name(self.codes.device.type)
        parts = (self.codes, self.absmax, self.nested_absmax, self.nested_offset, self.zeros)
        spec = self.spec
        weights: Tensor = ops.dequantize(
            *parts, spec.quant_type, spec.table, spec.block_size, list(self.shape), target, backend
        )
        return weights

    @property
    def scales(self) -> Tensor:
        """The scales as float32 (blocks,), read through double quantization where it was used."""
        if self.nested_absmax is None or self.nested_offset is None:
            return self.absmax
        backend = chosen_name(self.codes.device.type)
        scales: Tensor = ops.dequantize_scales(self.absmax, self.nested_absmax, self.nested_offset, backend)
        return scales

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is needed to dequantize; a user's own table included, named tables not."""
        parts = (self.codes, self.absmax, self.nested_absmax, self.nested_offset, self.zeros)
        own_table = 4 * len(self.spec.table or ()) if self.spec.quant_type == CUSTOM else 0
        return sum(part.nbytes for part in parts if part is not None) + own_table

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / number of weights."""
        return 8 * self.nbytes / math.prod(self.shape)

    def error(self, w: Tensor) -> QuantizationError:
        """Distance to the source w (same shape): mse, max, snr_db (infinite where nothing was lost). Computed in float64."""
        if w.shape != self.shape:
            raise ShapeError(f"error() compares with the source of shape {tuple(self.shape)}, got {tuple(w.shape)}")
        source = w.detach().double()
        difference = self.dequantize(torch.float32).double() - source
        mse, power = float(difference.square().mean()), float(source.square().mean())
        snr = math.inf if mse == 0 else 10 * math.log10(power / mse) if power else -math.inf
        return {"mse": mse, "max": float(difference.abs().max()), "snr_db": snr}

    def __repr__(self) -> str:
        return (
            f"QuantizedTensor(shape={tuple(self.shape)}, quant_type={self.spec.quant_type!r}, block_size={self.spec.block_size}, "
            f"double_quant={self.spec.double_quant}, bits_per_weight={self.bits_per_weight:.3f}, device={self.codes.device})"
        )


def quantize(
    w: Tensor,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = True,
    *,
    symmetric: bool = True,
    table: tuple[float, ...] | list[float] | None = None,
    name: str = "w",
) -> QuantizedTensor:
    """Quantize w, a float32, bfloat16 or float16 tensor of any shape, to 4 bits in blocks of its row-major order.

    quant_type: nf4, fp4, int4, nf3 or nf2; or give `table`, 2 to 16 ascending values in [-1, 1] of your own.
    block_size: 32 to 4096, a power of two. double_quant: store the scales in 8 bits. symmetric: False for int4 with a zero a block.
    name: what an error calls the tensor. Raises InputError's family: QuantTypeError, BlockSizeError, CodebookError, NonFiniteError.
    Source: QLoRA, arXiv 2305.14314; bits equal bitsandbytes' for nf4 and fp4.
    """
    own = None if table is None else tuple(float(value) for value in table)
    return quantize_with(w, QuantSpec(quant_type, block_size, double_quant, symmetric, own), name)


def quantize_with(w: Tensor, spec: QuantSpec, name: str = "w") -> QuantizedTensor:
    """`quantize` with its choices as one value."""
    _check_source(w, name)
    backend = chosen_name(w.device.type)
    try:
        codes, absmax, zeros = ops.quantize(w, spec.quant_type, spec.table, spec.symmetric, spec.block_size, backend)
    except NonFiniteError as error:
        raise NonFiniteError(name, error.index, error.value) from None
    nested_absmax = nested_offset = None
    if spec.double_quant:
        absmax, nested_absmax, nested_offset = ops.quantize_scales(absmax, backend)
    if w.dim() == 2 and w.shape[1] % 2 == 0:
        codes = codes.view(w.shape[0], -1)
    return QuantizedTensor(
        codes, absmax, nested_absmax, nested_offset, zeros if zeros.numel() else None, w.shape, w.dtype, spec
    )


def _check_source(w: Tensor, name: str) -> None:
    if not isinstance(w, Tensor):
        raise InputError(f"{name} is a {type(w).__name__}; quantize takes a torch tensor")
    if w.dtype not in DTYPES:
        raise InputError(f"{name} is {w.dtype}; quantize takes float32, bfloat16 or float16: convert it, e.g. with .float()")
    if w.numel() == 0:
        raise ShapeError(f"{name} of shape {tuple(w.shape)} has no elements; there is nothing to quantize")
