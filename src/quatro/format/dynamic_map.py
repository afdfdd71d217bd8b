"""The 8-bit dynamic map: 256 sorted values in (-1, 1] that double quantization stores scales with.

Source: 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861), section 1.3, in bitsandbytes' signed form: for each
decade i in 0..6 the midpoints of 2^i equal steps from 0.1 to 1, times 10^(i - 6), with both signs; then 0 and 1.
"""

from functools import lru_cache

from quatro.format.codebooks import float32

DECADES = 7


@lru_cache(maxsize=1)
def signed_dynamic_map() -> tuple[float, ...]:
    """The 256 values, ascending, each a float32; every step below is rounded to float32 as bitsandbytes' are."""
    positive = [value for decade in range(DECADES) for value in _decade(decade)]
    return tuple(sorted([*positive, *(-value for value in positive), 0.0, 1.0]))


@lru_cache(maxsize=1)
def signed_dynamic_thresholds() -> tuple[float, ...]:
    """The 255 float32 midpoints between neighbors."""
    values = signed_dynamic_map()
    return tuple(float32(float32(a + b) / 2) for a, b in zip(values, values[1:], strict=False))


def _decade(decade: int) -> list[float]:
    """2^decade positive values of one decade."""
    edges = _linspace(0.1, 1.0, 2**decade + 1)
    scale = float32(10.0 ** (decade - DECADES + 1))
    return [float32(scale * float32(float32(a + b) / 2)) for a, b in zip(edges, edges[1:], strict=False)]


def _linspace(start: float, end: float, count: int) -> list[float]:
    """Equal steps counted from the nearer end, each one fused multiply-add in float32, as torch.linspace does."""
    start, end = float32(start), float32(end)
    step = float32(float32(end - start) / (count - 1))
    near_start = [float32(start + step * i) for i in range(count // 2)]
    near_end = [float32(end - step * (count - 1 - i)) for i in range(count // 2, count)]
    return near_start + near_end
