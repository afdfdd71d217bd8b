"""Amounts of memory as people write them."""

import math
import re

from quatro.format.errors import InputError

UNITS = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
"""Bytes of a unit: powers of 1000, and powers of 1024 with an i."""
_BY_LETTERS = {name.lower(): bytes for name, bytes in UNITS.items()}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
ALLOWED = f"write a number and one of {', '.join(filter(None, UNITS))}, as in 12GiB (1024s), 12 GB (1000s) or 256MiB"


def parse_size(text: str | int | float) -> int:
    """Bytes of "12GiB", "12 GB", "1.5 GiB" or a plain number of bytes; capital and small letters mean the same.

    A part of a byte is dropped. Raises InputError for anything else, and for less than one byte.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise InputError(f"a size cannot be {text!r}; {ALLOWED}")
    size = _of_text(text) if isinstance(text, str) else text
    if not math.isfinite(size) or size < 1:
        raise InputError(f"a size must be one byte or more, got {text!r}; {ALLOWED}")
    return int(size)


def _of_text(text: str) -> float:
    match = _AMOUNT.fullmatch(text)
    unit = _BY_LETTERS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise InputError(f"size {text!r} cannot be read; {ALLOWED}")
    number = int(match[1]) if match[1].isdigit() else float(match[1])
    return number * unit
