from statistics import NormalDist

import pytest

from quatro.format.codebooks import FP4_TWELFTHS, QUANT_TYPES, code_table, float32
from quatro.format.errors import CodebookError, QuantTypeError

QUANTILE = NormalDist().inv_cdf
OFFSET = 0.9677083


def normal_map(bits: int) -> list[float]:
    """QLoRA's construction: equal steps of probability on either side, one more value above zero than below."""
    half = 2 ** (bits - 1)
    above = [QUANTILE(OFFSET + (0.5 - OFFSET) * i / half) for i in range(half)]
    below = [-QUANTILE(OFFSET + (0.5 - OFFSET) * i / (half - 1)) for i in range(half - 1)]
    return [value / max(above) for value in sorted([*above, 0.0, *below])]


@pytest.mark.parametrize(("name", "bits"), [("nf4", 4), ("nf3", 3), ("nf2", 2)])
def test_normal_float_tables_follow_from_the_quantiles_of_the_normal_distribution(name, bits):
    assert code_table(name).values == pytest.approx(normal_map(bits), abs=2e-7)


def test_fp4_is_e2m1_but_for_its_smallest_value():
    e2m1 = [0.0, 0.5, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]
    differing = [i for i, (ours, standard) in enumerate(zip(FP4_TWELFTHS, e2m1, strict=True)) if ours != standard]
    assert differing == [1]
    assert FP4_TWELFTHS[1] / 12 == 1 / 192


def test_fp4_has_its_negatives_in_the_upper_half():
    values = code_table("fp4").values
    assert [-value for value in values[:8]] == list(values[8:])


@pytest.mark.parametrize("name", QUANT_TYPES)
def test_order_sorts_the_values_and_thresholds_lie_between_them(name):
    table = code_table(name)
    ascending = [table.values[code] for code in table.order]
    assert ascending == sorted(table.values)
    assert all(a <= t <= b for a, t, b in zip(ascending, table.thresholds, ascending[1:], strict=False))


@pytest.mark.parametrize("name", QUANT_TYPES)
def test_the_zero_code_means_zero(name):
    table = code_table(name)
    assert table.values[table.zero_code] == 0.0


def test_int4_holds_every_signed_nibble_and_reaches_seven():
    assert code_table("int4").values == tuple(range(-8, 8))
    assert code_table("int4").full_scale == 7.0
    assert code_table("int4", None, False).values == tuple(range(16))


def test_an_own_table_is_rounded_to_float32():
    assert code_table("custom", (-1.0, 0.3, 0.5, 1.0)).values[1] == float32(0.3) != 0.3


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ((), "has 0"),
        ((0.5,), "has 1"),
        (tuple(i / 16 for i in range(17)), "has 17"),
        ((0.0, float("nan")), r"table\[1\] is nan"),
        ((0.0, float("inf")), r"table\[1\] is inf"),
        ((-2.0, 1.0), r"lie in \[-1, 1\]"),
        ((0.5, 0.1), "not above"),
        ((0.5, 0.5 + 1e-12), "once in float32"),
    ],
)
def test_an_unusable_own_table_is_refused_with_the_reason(values, complaint):
    with pytest.raises(CodebookError, match=complaint):
        code_table("custom", values)


def test_an_unknown_quant_type_is_answered_with_all_known_ones():
    with pytest.raises(QuantTypeError, match=r"unknown quant_type 'nf5'.*did you mean 'nf4'.*fp4, int4, nf2, nf3, nf4"):
        code_table("nf5")


def test_only_int4_has_an_affine_form():
    with pytest.raises(QuantTypeError, match="int4 only"):
        code_table("nf4", None, False)
