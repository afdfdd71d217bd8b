"""4-bit code tables: 2 to 16 values, indexed by code. The only place they are written.

Sources: NF4 from QLoRA (arXiv 2305.14314, appendix E); FP4 is bitsandbytes' variant of E2M1; NF3 and NF2 follow the same
construction as NF4 with 8 and 4 values (offset 0.9677083, one more positive value than negative ones), as PEFT's LoftQ has them.
The literals are canonical: deriving them again differs in last bits, so a test compares and the code never recomputes.
"""

import math
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache

from quatro.format.errors import CodebookError, QuantTypeError, did_you_mean

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF3 = (
    -1.0, -0.4786291718482971, -0.21714182198047638, 0.0,
    0.16093020141124725, 0.33791524171829224, 0.5626170039176941, 1.0,
)  # fmt: skip
NF2 = (-1.0, 0.0, 0.33791524171829224, 1.0)
FP4_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
INT4_SYMMETRIC = tuple(float(q) for q in range(-8, 8))
INT4_AFFINE = tuple(float(q) for q in range(16))

QUANT_TYPES = ("fp4", "int4", "nf2", "nf3", "nf4")
CUSTOM = "custom"
CODES = 16


def float32(value: float) -> float:
    """The float32 nearest to `value`, as a Python float."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


FP4 = tuple(float32(sign * value / 12.0) for sign in (1.0, -1.0) for value in FP4_TWELFTHS)


@dataclass(frozen=True)
class CodeTable:
    """What the 16 codes mean.

    values: 2 to 16 distinct float32 numbers (FP4 has its zero twice), in code order, which need not be sorted.
    full_scale: the table's value that a block's absmax maps to; a block's scale is absmax / full_scale. Values beyond
        it exist only for codes that others wrote (int4's -8).
    """

    name: str
    values: tuple[float, ...]
    full_scale: float = 1.0

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Sorted position -> code."""
        return tuple(sorted(range(len(self.values)), key=lambda code: self.values[code]))

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Float32 midpoints between neighbors, ascending. A number's position is how many of them lie below it, so ties go down."""
        ascending = [self.values[code] for code in self.order]
        return tuple(float32(float32(a + b) / 2) for a, b in zip(ascending, ascending[1:], strict=False))

    @cached_property
    def zero_code(self) -> int:
        """The code that 0.0 takes; pads the last byte of an odd count."""
        return self.order[sum(threshold < 0.0 for threshold in self.thresholds)]

    @cached_property
    def padded_values(self) -> tuple[float, ...]:
        """Sixteen values; codes a short table does not have read as 0."""
        return self.values + (0.0,) * (CODES - len(self.values))

    @cached_property
    def widest_gap(self) -> float:
        """The largest distance between neighbors: half of it, times absmax / full_scale, bounds the rounding error."""
        ascending = [self.values[code] for code in self.order]
        return max(b - a for a, b in zip(ascending, ascending[1:], strict=False))


_TABLES = {
    ("nf4", True): CodeTable("nf4", NF4),
    ("nf3", True): CodeTable("nf3", NF3),
    ("nf2", True): CodeTable("nf2", NF2),
    ("fp4", True): CodeTable("fp4", FP4),
    ("int4", True): CodeTable("int4", INT4_SYMMETRIC, full_scale=7.0),
    ("int4", False): CodeTable("int4", INT4_AFFINE, full_scale=15.0),
}


@lru_cache(maxsize=256)
def code_table(quant_type: str, values: tuple[float, ...] | None = None, symmetric: bool = True) -> CodeTable:
    """The table of a quant_type, or of a user's own values when quant_type is "custom".

    Raises QuantTypeError for an unknown name or a combination that does not exist, CodebookError for unusable values.
    """
    if quant_type == CUSTOM:
        return CodeTable(CUSTOM, _own_values(values))
    if quant_type not in QUANT_TYPES:
        raise QuantTypeError(f"unknown quant_type {quant_type!r}; {did_you_mean(str(quant_type), QUANT_TYPES)}")
    if values is not None:
        raise QuantTypeError(f"quant_type {quant_type!r} has its own table; to use yours, leave quant_type out")
    if (quant_type, symmetric) not in _TABLES:
        raise QuantTypeError(f"quant_type {quant_type!r} has no affine form; symmetric=False goes with int4 only")
    return _TABLES[quant_type, symmetric]


def _own_values(values: tuple[float, ...] | None) -> tuple[float, ...]:
    """A user's table, rounded to float32 and checked."""
    if not values or not 2 <= len(values) <= CODES:
        raise CodebookError(
            f"a code table has 2 to {CODES} values, this one has {len(values or ())}; 4-bit codes index no more"
        )
    rounded = tuple(float32(value) if abs(value) <= 1.0 else value for value in values)
    for index, value in enumerate(rounded):
        if not math.isfinite(value) or abs(value) > 1.0:
            raise CodebookError(
                f"table[{index}] is {value}; values stand for shares of a block's absmax, so they lie in [-1, 1]"
            )
        if index and value <= rounded[index - 1]:
            raise CodebookError(
                f"table[{index}] is {value}, not above table[{index - 1}] = {rounded[index - 1]}; sort the values, each once in float32"
            )
    return rounded
