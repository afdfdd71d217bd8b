"""Steps of optimizers: native bits against the reference's, AdamW against torch, and what 8-bit states promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quatro.format.dynamic_map import dynamic_bins, signed_dynamic_map, unsigned_dynamic_map
from quatro.format.errors import InputError, ShapeError
from quatro.kernels import library, native, reference
from quatro.kernels.reference_steps import read_states, write_states
from quatro.kernels.updates import STATE_BLOCK, STATE_COUNT, Update, adamw_scalars, lion_scalars

ISAS = [isa for isa in library.ISAS if library.ISAS.index(isa) <= library.library().quatro_best_isa()]
EPS = torch.finfo(torch.float32).eps


def scalars(rule: str, step: int = 3) -> object:
    if rule == "lion":
        return lion_scalars(1e-3, (0.9, 0.99), 0.01)
    return adamw_scalars(1e-3, (0.9, 0.999), 1e-8, 0.01, step)


def an_update(rule: str, bits: int, count: int, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)

    def wide(*shape: int) -> Tensor:
        """Numbers of many magnitudes, zeros among them."""
        found = torch.randn(*shape, generator=generator) * 10.0 ** torch.randint(-9, 1, shape, generator=generator)
        return found * (torch.rand(*shape, generator=generator) > 0.1)

    blocks = -(-count // STATE_BLOCK)
    states, absmax = [], []
    for index in range(STATE_COUNT[rule]):
        if bits == 8:
            states.append(torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator))
            absmax.append(wide(blocks).abs())
        else:
            states.append(wide(count).abs() if index else wide(count))
    return Update(torch.randn(count, generator=generator), wide(count), tuple(states), tuple(absmax), scalars(rule))


def copied(update: Update) -> Update:
    clones = [tuple(tensor.clone() for tensor in part) for part in (update.states, update.absmax)]
    return Update(update.parameter.clone(), update.gradient.clone(), *clones, update.scalars)


def numbers(update: Update) -> list[Tensor]:
    return [update.parameter, *update.states, *update.absmax]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("rule", ["adamw", "lion"])
def test_native_steps_have_the_reference_s_bits(rule: str, bits: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUATRO_ISA", isa)
    updates = [an_update(rule, bits, count, seed) for seed, count in enumerate((1, 7, 255, 256, 257, 1000, 70_001))]
    expected = [copied(update) for update in updates]
    for _ in range(3):
        native.optimizer_step(updates, rule, bits)
        reference.optimizer_step(expected, rule, bits)
        for mine, theirs in zip(updates, expected, strict=True):
            assert all(map(torch.equal, numbers(mine), numbers(theirs)))


@pytest.mark.parametrize("bits", [32, 8])
def test_the_bits_do_not_depend_on_threads_or_on_how_many_parameters_share_a_call(bits: int) -> None:
    together = [an_update("adamw", bits, 5000, seed) for seed in range(9)]
    apart = [copied(update) for update in together]
    threads = torch.get_num_threads()
    native.optimizer_step(together, "adamw", bits)
    torch.set_num_threads(1)
    try:
        for update in apart:
            native.optimizer_step([update], "adamw", bits)
    finally:
        torch.set_num_threads(threads)
    for mine, theirs in zip(together, apart, strict=True):
        assert all(map(torch.equal, numbers(mine), numbers(theirs)))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_state_takes_the_nearest_value_of_its_decade_and_zero_only_for_zero(seed: int, signed: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(600, generator=generator) * 10.0 ** torch.randint(-12, 1, (600,), generator=generator)
    states = states if signed else states.abs()
    states[::7] = 0
    codes, absmax = write_states(states, signed)
    found = read_states(codes, absmax, signed)
    assert torch.equal(found == 0, states == 0)
    assert torch.equal(found.sign(), states.sign())
    x = states.abs() / absmax.repeat_interleave(STATE_BLOCK)[:600]
    inside = (x >= 1e-7) & (x < dynamic_bins(signed).top)
    count = 2.0 ** (torch.searchsorted(torch.tensor(dynamic_bins(signed).edges), x, right=True) + (not signed))
    decade = 10.0 ** (torch.log2(count) - int(not signed) - 6)
    half = 0.45 / count * decade
    distance = (found.abs() / absmax.repeat_interleave(STATE_BLOCK)[:600] - x).abs()
    assert bool((distance[inside] <= half[inside] * (1 + 1e-4) + 4 * EPS * x[inside]).all())


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_of_a_map_is_written_as_itself(signed: bool) -> None:
    values = torch.tensor(signed_dynamic_map() if signed else unsigned_dynamic_map())
    codes, absmax = write_states(values, signed)
    assert absmax.tolist() == [1.0]
    assert codes.tolist() == list(range(256))


def test_the_unsigned_map_is_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert unsigned_dynamic_map() == tuple(functional.create_dynamic_map(signed=False).float().tolist())


def test_a_hundred_steps_are_torch_s_adamw_to_rounding() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Parameter(torch.randn(3000))
    optimizer = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.01, foreach=False)
    p = theirs.detach().clone()
    states = (torch.zeros(3000), torch.zeros(3000))
    size = torch.zeros(3000)
    for step in range(1, 101):
        theirs.grad = torch.randn(3000)
        g = theirs.grad.clone()
        before = theirs.detach().clone()
        optimizer.step()
        size += (theirs.detach() - before).abs()
        native.optimizer_step([Update(p, g, states, (), adamw_scalars(1e-3, (0.9, 0.999), 1e-8, 0.01, step))], "adamw", 32)
    # Either rounds a parameter three times a step (half an ulp each), and a moment's errors fade: under 20 roundings of the step itself.
    bound = 100 * 3 * EPS * torch.maximum(p.abs(), theirs.detach().abs()) + 20 * EPS * size
    assert bool(((p - theirs.detach()).abs() <= bound).all())


@pytest.mark.parametrize("rule", ["adamw", "lion"])
@pytest.mark.parametrize("bits", [32, 8])
def test_a_parameter_whose_gradient_is_always_0_does_not_move(rule: str, bits: int) -> None:
    update = an_update(rule, bits, 512)
    update.gradient.zero_()
    update.gradient[5] = 1.0
    for index, state in enumerate(update.states):
        state.fill_((127, 0)[index] if bits == 8 else 0)
    for scale in update.absmax:
        scale.zero_()
    before = update.parameter.clone()
    frozen = update._replace(
        scalars=lion_scalars(1e-3, (0.9, 0.99), 0.0) if rule == "lion" else adamw_scalars(1e-3, (0.9, 0.999), 1e-8, 0.0, 3)
    )
    for _ in range(50):
        native.optimizer_step([frozen], rule, bits)
    moved = frozen.parameter != before
    assert moved.nonzero().flatten().tolist() == [5]


def test_bad_calls_are_refused() -> None:
    update = an_update("adamw", 32, 300)
    with pytest.raises(ShapeError, match="2 states in 32 bits"):
        native.optimizer_step([update._replace(states=update.states[:1])], "adamw", 32)
    with pytest.raises(ShapeError, match="needs 300 contiguous"):
        native.optimizer_step([update._replace(gradient=update.gradient[:299])], "adamw", 32)
    with pytest.raises(ShapeError, match="contiguous ones of torch.uint8"):
        native.optimizer_step([update._replace(absmax=(torch.zeros(2),) * 2)], "adamw", 8)
    assert library.library().quatro_optimizer_step(None, 1, 0, 32, None, 0, 1) == 1
    with pytest.raises(InputError, match="refuse"):
        library.check(1)
