"""A code table as 16 integers, for products that are summed as integers: value ~ steps / steps_per_one.

64 products of a step and an activation must stay below 2^31, so a step has at most 12 bits. How well 16 values fall on the grid
differs from grid to grid: the best one is searched. int4 and fp4 fall on theirs exactly; nf4 errs by 4.2e-5 (root mean square).
"""

import math
from functools import lru_cache

from quatro.format.codebooks import CodeTable, float32

LARGEST_STEP = 4095
SMALLEST_TABLE = 2.0**-20
"""A table whose values are all smaller than this is no share of an absmax: it has no integers."""


@lru_cache(maxsize=256)
def integer_steps(table: CodeTable) -> tuple[tuple[int, ...], float]:
    """(16 integers by code, steps_per_one as a float32): of all grids the one with the smallest mean squared error."""
    values = table.padded_values
    largest = max(map(abs, values))
    grids = [float32(full / largest) for full in range(LARGEST_STEP // 2, LARGEST_STEP + 1)]
    steps_per_one = min(
        (grid for grid in grids if round(largest * grid) <= LARGEST_STEP), key=lambda grid: _error(values, grid)
    )
    return tuple(round(value * steps_per_one) for value in values), steps_per_one


@lru_cache(maxsize=256)
def has_integer_steps(table: CodeTable) -> bool:
    """Whether the table's values are large enough to be shares of an absmax."""
    return max(map(abs, table.padded_values)) >= SMALLEST_TABLE


def _error(values: tuple[float, ...], grid: float) -> float:
    return math.fsum((round(value * grid) / grid - value) ** 2 for value in values)
