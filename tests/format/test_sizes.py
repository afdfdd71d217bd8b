"""A size means one number of bytes, or is refused with what is allowed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatro.format.errors import InputError
from quatro.format.sizes import UNITS, parse_size


@pytest.mark.parametrize(
    ("written", "bytes"),
    [
        ("12GiB", 12 * 1024**3),
        ("12 GB", 12 * 1000**3),
        ("256MiB", 256 * 1024**2),
        (" 1.5 gib ", 3 * 1024**3 // 2),
        ("64kb", 64_000),
        ("1e9", 10**9),
        ("512", 512),
        ("7B", 7),
        (1e9, 10**9),
        (4096, 4096),
    ],
)
def test_a_number_and_a_unit_are_bytes(written: str | float, bytes: int) -> None:
    assert parse_size(written) == bytes


@pytest.mark.parametrize(
    "written",
    [
        "12 gigs",
        "12G",
        "",
        "GiB",
        "-1GiB",
        "1,5GiB",
        "nan",
        "inf",
        "0",
        "0.4B",
        "1e999",
        "1e-3GiB",
        "12 GiB 3",
        "٣GiB",
        True,
        None,
        0,
        -5,
        math.nan,
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(written: object) -> None:
    with pytest.raises(InputError, match="12GiB"):
        parse_size(written)  # type: ignore[arg-type]


@given(st.integers(1, 10**15), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_whole_numbers_are_exact_in_every_unit(count: int, unit: str, space: str) -> None:
    assert parse_size(f"{count}{space}{unit}") == count * UNITS[unit]
