from quatro.format.codebooks import float32
from quatro.format.dynamic_map import signed_dynamic_map, signed_dynamic_thresholds


def test_the_map_has_256_distinct_ascending_float32_values():
    values = signed_dynamic_map()
    assert len(set(values)) == 256
    assert list(values) == sorted(values)
    assert all(value == float32(value) for value in values)


def test_the_map_is_symmetric_but_for_zero_and_one():
    values = set(signed_dynamic_map())
    assert {value for value in values if -value not in values} == {1.0}
    assert 0.0 in values


def test_seven_decades_double_their_values_each():
    positive = [value for value in signed_dynamic_map() if 0 < value < 1]
    counts = [sum(10.0 ** (i - 7) < value < 10.0 ** (i - 6) for value in positive) for i in range(7)]
    assert counts == [1, 2, 4, 8, 16, 32, 64]


def test_thresholds_lie_halfway():
    values, thresholds = signed_dynamic_map(), signed_dynamic_thresholds()
    assert len(thresholds) == 255
    assert all(
        abs((b - t) - (t - a)) <= 2**-23 * max(abs(a), abs(b)) for a, t, b in zip(values, thresholds, values[1:], strict=False)
    )
