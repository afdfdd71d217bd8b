"""A code table made for one tensor: its own quantiles instead of the normal distribution's."""

import torch
from torch import Tensor

from quatro.format.errors import CodebookError, ShapeError
from quatro.kernels.reference import check_finite

TAIL = 1 - 0.9677083
"""Probability beyond the outermost values on either side (QLoRA's offset for NF4)."""
SAMPLE = 2**22


def codebook(w: Tensor, bits: int = 4) -> tuple[float, ...]:
    """2^bits ascending values in [-1, 1] at equally likely quantiles of w, with 0 among them and the largest at 1 or -1.

    QLoRA's construction of NF4 (arXiv 2305.14314, section 3 and appendix E) with w's own quantiles: for normal weights it
    gives NF4 again, for skewed ones it spends the codes where the weights are. bits: 1 to 4; large tensors are sampled evenly.
    Raises CodebookError where w has too few distinct values, NonFiniteError for NaN or Inf.
    """
    if bits not in (1, 2, 3, 4):
        raise CodebookError(f"bits is {bits!r}; a table of 2 to 16 values takes 1, 2, 3 or 4")
    if w.numel() == 0:
        raise ShapeError("w has no elements; a table needs values to take quantiles of")
    check_finite(w, "w")
    flat = w.detach().flatten().double()
    values = flat[:: -(-flat.numel() // SAMPLE)].sort().values
    below = float((values < 0).double().mean())
    negatives = int(below * (2**bits - 1) + 0.25)
    positives = 2**bits - 1 - negatives
    lower = _quantiles(values, TAIL if negatives else below, below, negatives)
    upper = _quantiles(values, 1 - TAIL if positives else below, below, positives)
    table = torch.cat([lower, torch.zeros(1, dtype=torch.float64), upper.flip(0)])
    return _scaled(table, bits)


def _quantiles(values: Tensor, outermost: float, zero: float, count: int) -> Tensor:
    """`count` quantiles of sorted values, from the outermost probability towards zero's, which is left out."""
    places = torch.linspace(outermost, zero, count + 1, dtype=torch.float64)[:-1] * (values.numel() - 1)
    left = places.floor().long()
    right = places.ceil().long()
    return torch.lerp(values[left], values[right], places - left)


def _scaled(table: Tensor, bits: int) -> tuple[float, ...]:
    """The table divided by its largest magnitude, in float32."""
    scaled = (table / table.abs().max().clamp(min=torch.finfo(torch.float64).tiny)).float()
    if (scaled.diff() <= 0).any():
        raise CodebookError(
            f"w has too few distinct values for a table of {2**bits}; ask for fewer bits or use a named quant_type"
        )
    return tuple(float(value) for value in scaled)
