"""The 8-bit dynamic maps: 256 sorted values that double quantization stores scales with, and optimizers their moments.

Source: 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861), section 1.3, in bitsandbytes' form: for each decade i in 0..6
the midpoints of 2^i equal steps (unsigned: 2^(i + 1)) from 0.1 to 1, times 10^(i - 6), signed ones with both signs; then 0 and 1.
"""

from dataclasses import dataclass
from functools import lru_cache

from quatro.format.codebooks import float32

DECADES = 7


@lru_cache(maxsize=1)
def signed_dynamic_map() -> tuple[float, ...]:
    """The 256 values, ascending, each a float32; every step below is rounded to float32 as bitsandbytes' are."""
    positive = [value for decade in range(DECADES) for value in _decade(decade)]
    return tuple(sorted([*positive, *(-value for value in positive), 0.0, 1.0]))


@lru_cache(maxsize=1)
def unsigned_dynamic_map() -> tuple[float, ...]:
    """The 256 values from 0 to 1, ascending, each a float32."""
    return (0.0, *(value for decade in range(DECADES) for value in _decade(decade, 2)), 1.0)


@dataclass(frozen=True)
class Bins:
    """Which value a state takes, x = |state| / absmax in [0, 1]: that of the bin of its decade that x lies in.

    The decade d is the number of edges <= x, the bin trunc(max(x * steps[d] + starts[d], 0)), at most the last of 2^d (unsigned:
    2^(d + 1)); from top on the value is 1. Within a decade that is the nearest value. Each operation is one of float32.
    """

    edges: tuple[float, ...]
    steps: tuple[float, ...]
    starts: tuple[float, ...]
    top: float


@lru_cache(maxsize=2)
def dynamic_bins(signed: bool) -> Bins:
    """The bins of either map."""
    counts = [2 ** (decade + (not signed)) for decade in range(DECADES)]
    steps = tuple(float32(count * 10.0 ** (DECADES - 1 - decade) / 0.9) for decade, count in enumerate(counts))
    edges = tuple(float32(10.0 ** (decade - DECADES + 1)) for decade in range(DECADES - 1))
    largest = (signed_dynamic_map() if signed else unsigned_dynamic_map())[-2]
    return Bins(edges, steps, tuple(float32(-count / 9) for count in counts), float32((1 + largest) / 2))


@lru_cache(maxsize=1)
def signed_dynamic_thresholds() -> tuple[float, ...]:
    """The 255 float32 midpoints between neighbors."""
    values = signed_dynamic_map()
    return tuple(float32(float32(a + b) / 2) for a, b in zip(values, values[1:], strict=False))


def _decade(decade: int, times: int = 1) -> list[float]:
    """2^decade positive values of one decade, or `times` as many."""
    edges = _linspace(0.1, 1.0, times * 2**decade + 1)
    scale = float32(10.0 ** (decade - DECADES + 1))
    return [float32(scale * float32(float32(a + b) / 2)) for a, b in zip(edges, edges[1:], strict=False)]


def _linspace(start: float, end: float, count: int) -> list[float]:
    """Equal steps counted from the nearer end, each one fused multiply-add in float32, as torch.linspace does."""
    start, end = float32(start), float32(end)
    step = float32(float32(end - start) / (count - 1))
    near_start = [float32(start + step * i) for i in range(count // 2)]
    near_end = [float32(end - step * (count - 1 - i)) for i in range(count // 2, count)]
    return near_start + near_end
