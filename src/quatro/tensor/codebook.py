"""A code table made for one tensor: its own quantiles instead of the normal distribution's."""

import torch
from torch import Tensor

from quatro.format.codebooks import CODES
from quatro.format.errors import CodebookError
from quatro.format.layout import BLOCK_SIZES, SMALLEST_SCALE
from quatro.kernels.reference import check_finite


def codebook(w: Tensor, bits: int = 4, block_size: int = 64) -> tuple[float, ...]:
    """2^bits ascending values in [-1, 1] from the quantiles of w's values, each divided by its block's absmax.

    The values are the midpoints of neighbors among 2^bits + 1 equally likely quantiles, stretched so that both ends of
    the range keep a value, and 0 is one of them (QLoRA, arXiv 2305.14314, section 3, applied to the tensor itself).
    bits: 1 to 4. Raises CodebookError where w has too few distinct values for a table, NonFiniteError for NaN or Inf.
    """
    if bits not in (1, 2, 3, 4):
        raise CodebookError(f"bits is {bits!r}; a table of 2 to {CODES} values takes 1, 2, 3 or 4")
    if block_size not in BLOCK_SIZES:
        raise CodebookError(f"block_size {block_size!r} is not allowed; choose one of {', '.join(map(str, BLOCK_SIZES))}")
    check_finite(w, "w")
    edges = torch.quantile(_sample(_shares_of_absmax(w, block_size)), torch.linspace(0, 1, 2**bits + 1, dtype=torch.float64))
    middles = (edges[:-1] + edges[1:]) / 2
    middles[0], middles[-1] = -1.0, 1.0
    if bits > 1:
        inner = middles[1:-1]
        inner[inner.abs().argmin()] = 0.0
    values = tuple(float(value) for value in middles.float())
    if any(b <= a for a, b in zip(values, values[1:], strict=False)):
        raise CodebookError(f"w has too few distinct values for {2**bits} quantiles; ask for fewer bits or use a named quant_type")
    return values


def _shares_of_absmax(w: Tensor, block_size: int) -> Tensor:
    flat = w.detach().flatten().double()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % block_size)).view(-1, block_size)
    shares = padded / padded.abs().amax(1, keepdim=True).clamp(min=SMALLEST_SCALE)
    return shares.flatten()[: flat.numel()].cpu()


def _sample(values: Tensor, most: int = 2**20) -> Tensor:
    """At most 2^20 values at equal distances: quantiles need no more, and torch.quantile takes no more than 2^24."""
    step = -(-values.numel() // most)
    return values[::step]
