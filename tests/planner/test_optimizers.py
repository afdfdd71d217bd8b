"""Optimizer states: 8 bytes a parameter in 32 bits, 2 and scales in 8, and what is paged beyond a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatro.format.errors import InputError
from quatro.planner.asking import plan
from quatro.planner.optimizers import BLOCK, OPTIMIZERS, SMALLEST, Optimizer, optimizer_named


def test_a_billion_parameters_of_adamw_have_8_gb_of_moments() -> None:
    assert optimizer_named("adamw_torch").state_bytes([(10**9, 1)]) == 8 * 10**9


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(1, 50)), max_size=20), st.sampled_from([1, 2]))
def test_8_bits_are_never_more_than_32_and_small_tensors_take_the_same(tensors: list[tuple[int, int]], moments: int) -> None:
    narrow, wide = Optimizer(moments, 8).state_bytes(tensors), Optimizer(moments).state_bytes(tensors)
    numbers = sum(size * count for size, count in tensors)
    assert wide == 4 * moments * numbers
    assert moments * numbers <= narrow <= wide
    small = [(size, count) for size, count in tensors if size < SMALLEST]
    assert Optimizer(moments, 8).state_bytes(small) == Optimizer(moments).state_bytes(small)


def test_a_short_last_block_has_a_scale_of_its_own() -> None:
    size = SMALLEST + 1
    assert Optimizer(2, 8).state_bytes([(size, 3)]) == 3 * 2 * (size + 4 * (SMALLEST // BLOCK + 1))


@given(st.integers(1, 1 << 40))
def test_what_is_resident_and_what_is_paged_are_all_states(budget: int) -> None:
    found = plan("llama-7b", optim="paged_adamw_32bit", budget=budget)
    resident = found.parts["optimizer states"].bytes
    assert resident == min(budget, 8 * found.trainable)
    assert resident + found.paged == 8 * found.trainable


def test_unknown_names_and_budgets_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'paged_adamw_8bit'"):
        optimizer_named("paged_adam_8bit")
    with pytest.raises(InputError, match="12 gigs"):
        plan("llama-7b", budget="12 gigs")
    assert {name for name, one in OPTIMIZERS.items() if one.paged} == {name for name in OPTIMIZERS if name.startswith("paged_")}
