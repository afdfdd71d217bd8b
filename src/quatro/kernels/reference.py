"""The plain-torch backend that defines the bits. Short, obvious, slow; every other backend must agree with it.

Shapes here are flat: w (n,) of float32, bfloat16 or float16 · codes ((n + 1) // 2,) uint8, first weight in the high nibble ·
scales and zeros (ceil(n / block_size),) float32. See quatro.format.layout for the drawing.
"""

import torch
from torch import Tensor

from quatro.format.codebooks import CodeTable
from quatro.format.dynamic_map import signed_dynamic_map, signed_dynamic_thresholds
from quatro.format.errors import BackendError, NonFiniteError
from quatro.format.layout import GROUP, SMALLEST_SCALE
from quatro.kernels.products import StoredWeight
from quatro.kernels.reference_steps import optimizer_step as optimizer_step

NAME = "reference"
LANES = 256
"""Partial sums of the scale mean: lane j adds scales j, j + 256, ... in order, then the lanes are added in order."""


def refusal(device: torch.device) -> str | None:
    """Why this backend cannot run on a device; it always can."""
    return None


def quantize(w: Tensor, table: CodeTable, block_size: int, affine: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """w (n,) -> codes, scales, zeros (None unless affine). Raises NonFiniteError for NaN or Inf.

    Rule of bitsandbytes' CPU path: multiply whole blocks by the float32 reciprocal of the scale, divide in a ragged last
    block, clip, take the nearest table value, ties to the lower one.
    """
    check_finite(w)
    blocks, ragged = _blocks(w, block_size)
    if affine:
        position, scales, zeros = _affine_positions(blocks, ragged, table)
    else:
        position, scales, zeros = *_symmetric_positions(blocks, ragged, table), None
    order = torch.tensor(table.order, dtype=torch.uint8, device=w.device)
    return pack(order[position], table.zero_code), scales, zeros


def _symmetric_positions(blocks: Tensor, ragged: Tensor, table: CodeTable) -> tuple[Tensor, Tensor]:
    """Sorted table positions of all weights (n,), and the scales."""
    scales = blocks.abs().amax(1) / table.full_scale
    scaled = blocks * (1.0 / scales.clamp(min=SMALLEST_SCALE))[:, None]
    if ragged.numel():
        last = ragged.abs().amax()[None] / table.full_scale
        scales = torch.cat([scales, last])
        scaled = torch.cat([scaled.flatten(), ragged / last.clamp(min=SMALLEST_SCALE)])
    clipped = scaled.flatten().clamp(-table.full_scale, table.full_scale)
    return nearest(clipped, table.thresholds), scales


def _affine_positions(blocks: Tensor, ragged: Tensor, table: CodeTable) -> tuple[Tensor, Tensor, Tensor]:
    """As above with value = scale * (q - zero): the block's minimum takes q = 0, its maximum q = 15."""
    positions, scales, zeros = zip(*(_affine_rows(rows, table) for rows in (blocks, ragged[None]) if rows.numel()), strict=True)
    return torch.cat(positions), torch.cat(scales), torch.cat(zeros)


def _affine_rows(rows: Tensor, table: CodeTable) -> tuple[Tensor, Tensor, Tensor]:
    low, high = rows.amin(1), rows.amax(1)
    scale = high / table.full_scale - low / table.full_scale
    constant = scale == 0
    zeros = torch.where(constant, (-low).sign(), -(low / scale))
    position = nearest(((rows - low[:, None]) / scale[:, None]).nan_to_num(nan=0.0).flatten(), table.thresholds)
    position = torch.where(constant[:, None], 0, position.view_as(rows)).flatten()
    return position, torch.where(constant, low.abs(), scale), zeros


def dequantize(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, table: CodeTable, count: int, block_size: int, out: Tensor
) -> Tensor:
    """Write the first `count` weights to `out` (count,): table[code] * scale in float32, then one cast to out's dtype."""
    values = torch.tensor(table.padded_values, dtype=torch.float32, device=codes.device)[unpack(codes, count).long()]
    if zeros is not None:
        values = values - _per_weight(zeros, block_size, count)
    return out.copy_(values * _per_weight(scales, block_size, count))


def quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantization: scales (blocks,) -> 8-bit codes (blocks,), absmax of each group of 256 float32, mean () float32."""
    mean = ordered_mean(scales)
    rest = scales - mean
    groups = torch.nn.functional.pad(rest, (0, -rest.numel() % GROUP)).view(-1, GROUP)
    group_absmax = groups.abs().amax(1)
    scaled = (groups * (1.0 / group_absmax.clamp(min=SMALLEST_SCALE))[:, None]).flatten()[: rest.numel()]
    return nearest(scaled.clamp(-1.0, 1.0), signed_dynamic_thresholds()).to(torch.uint8), group_absmax, mean


def dequantize_scales(codes: Tensor, group_absmax: Tensor, mean: Tensor) -> Tensor:
    """Scales (blocks,) float32: map[code] * absmax of its group, plus the mean; each step rounded to float32."""
    values = torch.tensor(signed_dynamic_map(), dtype=torch.float32, device=codes.device)[codes.long()]
    return values * _per_weight(group_absmax, GROUP, codes.numel()) + mean


def integer_refusal(weight: StoredWeight) -> str | None:
    """Why there is no integer product here: the reference multiplies in floating point."""
    return "the reference multiplies in floating point"


def integer_linear(x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
    """Not here; see integer_refusal."""
    raise BackendError("the reference has no integer product")


def integer_linear_backward(grad: Tensor, weight: StoredWeight) -> Tensor:
    """Not here; see integer_refusal."""
    raise BackendError("the reference has no integer product")


def ordered_mean(scales: Tensor) -> Tensor:
    """The mean in float64 in a fixed order, rounded once to float32: the same bits on any number of threads."""
    lanes = torch.nn.functional.pad(scales.double(), (0, -scales.numel() % LANES)).view(-1, LANES)
    total = lanes.cumsum(0)[-1].cumsum(0)[-1]
    return (total / scales.numel()).float()


def check_finite(w: Tensor, name: str = "the tensor") -> None:
    """Raise NonFiniteError with the first flat index that is NaN or Inf."""
    bad = ~torch.isfinite(w.flatten())
    if bad.any():
        index = int(bad.nonzero()[0])
        raise NonFiniteError(name, index, float(w.flatten()[index]))


def nearest(x: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Sorted positions (int64): the number of thresholds below each x, so that ties go down."""
    return torch.bucketize(x, torch.tensor(thresholds, dtype=torch.float32, device=x.device))


def pack(codes: Tensor, padding: int) -> Tensor:
    """Two codes a byte, the first in the high nibble; an odd count is padded with the code of 0."""
    even = torch.nn.functional.pad(codes, (0, codes.numel() % 2), value=padding)
    return (even[0::2] << 4) | even[1::2]


def unpack(codes: Tensor, count: int) -> Tensor:
    """The first `count` codes (count,) uint8."""
    return torch.stack([codes >> 4, codes & 15], dim=1).flatten()[:count]


def _blocks(w: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Whole blocks (blocks, block_size) and what is left over, in float32."""
    whole = w.numel() // block_size * block_size
    flat = w.flatten().float()
    return flat[:whole].view(-1, block_size), flat[whole:]


def _per_weight(per_block: Tensor, block_size: int, count: int) -> Tensor:
    """Each block's number, once for each of its weights (count,)."""
    return per_block.flatten().repeat_interleave(block_size)[:count]
