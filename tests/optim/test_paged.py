"""Optimizers with a budget: the same bits for any of them, and what torch, schedulers and checkpoints expect."""

import errno
import gc
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quatro.format.errors import InputError, MachineError
from quatro.optim import PagedAdamW, PagedLion

KINDS = [(PagedAdamW, 32), (PagedAdamW, 8), (PagedLion, 32), (PagedLion, 8)]
SIZES = [3, 300, 1, 5000, 256, 70, 12_000]
PAGE = 16 << 10


def parameters(sizes: list[int], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in sizes]


def gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for index, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        if (index + step) % 5 == 0:
            p.grad = None


def trained(
    kind: Any, bits: int, steps: int = 5, sizes: list[int] = SIZES, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    params = parameters(sizes, dtype)
    optimizer = kind(params, lr=1e-2, weight_decay=0.1, state_bits=bits, **options)
    for step in range(steps):
        gradients(params, step)
        optimizer.step()
    return params, optimizer


def same(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=8),
    st.integers(2, 5),
    st.sampled_from([4 << 10, PAGE, 9000]),
    st.sampled_from(KINDS),
)
def test_any_budget_of_two_pages_or_more_gives_the_bits_of_the_unpaged_optimizer(sizes, frames, page, kind):
    whole, _ = trained(*kind, sizes=sizes)
    paged, optimizer = trained(*kind, sizes=sizes, budget=frames * page, page_size=page)
    assert same(whole, paged)
    assert optimizer.statistics.resident <= frames * page


@pytest.mark.parametrize("kind", KINDS)
def test_pages_go_and_come_and_are_counted(kind):
    _, optimizer = trained(*kind, sizes=[40_000], budget=2 * PAGE, page_size=PAGE)
    found = optimizer.statistics
    assert found.resident <= 2 * PAGE < found.total
    assert found.evicted > 0
    assert found.bytes_written > 0
    assert found.bytes_read > 0


def test_states_that_fit_need_no_file():
    _, optimizer = trained(PagedAdamW, 32, directory="/nowhere")
    assert optimizer.statistics.evicted == 0
    assert optimizer.statistics.resident == optimizer.statistics.total


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters_are_moved_in_float32_and_rounded_once(dtype):
    p = nn.Parameter(torch.randn(300).to(dtype))
    wide = nn.Parameter(p.detach().float())
    p.grad = torch.randn(300).to(dtype)
    wide.grad = p.grad.float()
    for parameter in (p, wide):
        PagedAdamW([parameter], lr=1e-2).step()
    assert torch.equal(p, wide.to(dtype))


def test_a_transposed_parameter_moves_as_its_contiguous_twin():
    base = torch.randn(70, 90)
    strided, plain = nn.Parameter(base.T), nn.Parameter(base.T.contiguous())
    for p in (strided, plain):
        p.grad = torch.ones(90, 70).cumsum(0)
        PagedAdamW([p], lr=1e-2, budget=2 * PAGE, page_size=PAGE).step()
    assert torch.equal(strided, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_to_the_same_bits_with_another_budget(kind, tmp_path):
    through, _ = trained(*kind, steps=8)
    halfway, optimizer = trained(*kind, steps=5, budget=3 * PAGE, page_size=PAGE)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    for loads in ("load_state_dict", "load"):
        params = [nn.Parameter(p.detach().clone()) for p in halfway]
        again = kind[0](params, state_bits=kind[1], budget=2 * PAGE, page_size=PAGE)
        if loads == "load":
            again.load(tmp_path / "optimizer.pt")
        else:
            again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
        assert again.param_groups[0]["lr"] == 1e-2
        for step in range(5, 8):
            gradients(params, step)
            again.step()
        assert same(params, through)
        assert again.statistics.resident <= 2 * PAGE


def test_torch_s_adamw_may_be_taken_over():
    params = parameters([400, 30])
    theirs = torch.optim.AdamW(params, lr=1e-2)
    gradients(params, 1)
    theirs.step()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    mine = PagedAdamW(twins, lr=1e-2)
    mine.load_state_dict(theirs.state_dict())
    for p, twin in zip(params, twins, strict=True):
        p.grad = torch.randn_like(p)
        twin.grad = p.grad.clone()
    theirs.step()
    mine.step()
    for p, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(p, twin, rtol=1e-6, atol=1e-7)
    assert float(mine.state_dict()["state"][0]["step"]) == 2


def test_a_group_that_is_added_later_keeps_the_states_of_the_others():
    first, second = parameters([3000, 500]), parameters([700])
    both = [*parameters([3000, 500]), *parameters([700])]
    grown, whole = PagedAdamW(first, budget=2 * PAGE, page_size=PAGE), PagedAdamW(both)
    for step in range(4):
        for p, twin in zip([*first, *second], both, strict=True):
            generator = torch.Generator().manual_seed(step)
            p.grad = torch.randn(p.shape, generator=generator)
            twin.grad = p.grad.clone() if step > 1 or p.numel() != 700 else None
        if step == 2:
            grown.add_param_group({"params": second})
        grown.step()
        whole.step()
    assert same([*first, *second], both)


def test_groups_schedules_and_closures_are_torch_s():
    a, b = parameters([300, 400])
    optimizer = PagedAdamW([{"params": [a], "lr": 0.5, "weight_decay": 0.0}, {"params": [b]}], lr=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    before = [a.detach().clone(), b.detach().clone()]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = a.sum() + b.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    torch.testing.assert_close(a, before[0] - 0.5)
    torch.testing.assert_close(b, before[1] * (1 - 0.25 * 0.01) - 0.25)
    schedule.step()
    kept = a.detach().clone()
    optimizer.step(closure)
    assert torch.equal(a, kept)


def test_a_gradient_scaler_skips_a_step_with_inf_and_unscales_the_others():
    p, twin = parameters([300])[0], parameters([300])[0]
    optimizer, plain = PagedAdamW([p], lr=1e-2), PagedAdamW([twin], lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for value in (1.0, float("inf"), 2.0):
        p.grad = None
        scaler.scale((p * value).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if value != float("inf"):
            twin.grad = torch.full_like(twin, value)
            plain.step()
    assert torch.equal(p, twin)


def test_one_hot_element_then_silence_never_steps_further_than_32_bits_allow():
    ratios = 10.0 ** -torch.linspace(2, 6, 17)
    size = len(ratios) + 1
    moved: dict[int, list[torch.Tensor]] = {}
    for bits in (32, 8):
        p = nn.Parameter(torch.zeros(size))
        optimizer = PagedAdamW([p], lr=1e-3, weight_decay=0.0, state_bits=bits)
        moved[bits] = []
        for step in range(60):
            p.grad = torch.cat([torch.ones(1), ratios]) if step < 10 else torch.zeros(size)
            before = p.detach().clone()
            optimizer.step()
            moved[bits].append((p.detach() - before).abs())
    for mine, theirs in zip(moved[8], moved[32], strict=True):
        assert bool((mine <= theirs * _furthest(ratios) * 1.001).all())


def _furthest(ratios: torch.Tensor) -> torch.Tensor:
    """How far an 8-bit step may go beyond a 32-bit one: a first moment read as its bin's middle from the lower edge, a second from the upper."""
    found = [torch.tensor(1.0)]
    for ratio in ratios.tolist():
        first = _widest(ratio, signed=True)[0]
        second = _widest(ratio**2, signed=False)[1]
        found.append(torch.tensor(first * second**0.5))
    return torch.stack(found)


def _widest(x: float, signed: bool) -> tuple[float, float]:
    """(middle / lower edge, upper edge / middle) of the widest bin among x's own and its neighbors."""
    if x < 1e-7:
        return (0.55e-6 if signed else 0.325e-6) / x, 1.0
    decade = min(6, max(0, int(torch.tensor(x).log10().floor()) + 7))
    count = 2 ** (decade + (not signed))
    low = 10.0 ** (decade - 7)
    width = 9 * low / count
    index = min(count - 1, max(0, int((x - low) / width)))
    bins = [low + width * max(0, index - 1), low + width * index]
    return max((edge + width / 2) / edge for edge in bins), max((edge + width) / (edge + width / 2) for edge in bins)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"state_bits": 16}, "state_bits 16"),
        ({"tier": "cloud"}, "unknown tier 'cloud'"),
        ({"budget": "12 gigs"}, "size '12 gigs' cannot be read"),
        ({"lr": -1}, "lr -1"),
        ({"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_bad_arguments_are_refused_by_one_sentence(options, said):
    with pytest.raises(InputError, match=said):
        PagedAdamW(parameters([3]), **options)


def test_a_budget_below_two_pages_is_refused_with_the_least_that_works():
    with pytest.raises(InputError, match=f"give at least {2 * PAGE:,}"):
        trained(PagedAdamW, 32, budget=2 * PAGE - 1, page_size=PAGE)


def test_tier_ram_on_a_cpu_is_refused_where_the_budget_does_not_hold_the_states():
    with pytest.raises(InputError, match="choose tier disk, or raise the budget"):
        trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, tier="ram")


def test_a_directory_that_is_none_or_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path / "file")
    with pytest.raises(MachineError, match="cannot be written in /proc"):
        trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory="/proc")


def test_a_disk_without_room_is_refused_before_the_first_step(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match=r"take [\d,]+ bytes in .*, which has [\d,]+ left"):
        trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["fails", "ends early"])
def test_a_disk_that_fails_later_ends_the_step_with_a_sentence(tmp_path, monkeypatch, how):
    params, optimizer = trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)

    def broken(*_: object) -> int:
        if how == "ends early":
            return 0
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    gradients(params, 9)
    with pytest.raises(MachineError, match="last checkpoint"):
        optimizer.step()


def test_page_files_have_no_name_so_nobody_meets_them_and_nothing_stays(tmp_path):
    _, first = trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    _, second = trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    assert not list(tmp_path.iterdir())
    assert first.statistics.evicted == second.statistics.evicted > 0


def test_without_unnamed_files_a_name_is_taken_away_at_once(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    _, optimizer = trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    assert optimizer.statistics.evicted > 0
    assert not list(tmp_path.iterdir())


def test_states_of_another_shape_bits_or_model_are_refused():
    _, optimizer = trained(PagedAdamW, 32)
    saved = optimizer.state_dict()
    with pytest.raises(InputError, match="groups of"):
        PagedAdamW(parameters([3])).load_state_dict(saved)
    with pytest.raises(InputError, match="has .* as exp_avg"):
        PagedAdamW(parameters([size + 1 for size in SIZES])).load_state_dict(saved)
    with pytest.raises(InputError, match="other state_bits"):
        PagedAdamW(parameters(SIZES), state_bits=8).load_state_dict(saved)
    untouched = PagedAdamW(parameters(SIZES))
    assert untouched.state_dict()["state"] == {}


def test_what_is_saved_is_plain_tensors_in_torch_s_form(tmp_path: Path):
    _, optimizer = trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE)
    _, plain = trained(PagedAdamW, 32)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    found = torch.load(buffer, weights_only=True)
    for index, state in plain.state_dict()["state"].items():
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        for name, numbers in state.items():
            assert torch.equal(found["state"][index][name], numbers), (index, name)


def test_integers_and_sparse_gradients_are_refused():
    with pytest.raises(InputError, match="float64"):
        PagedAdamW([nn.Parameter(torch.zeros(3, dtype=torch.float64))])
    embedding = nn.Embedding(9, 4, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse"):
        PagedAdamW(embedding.parameters()).step()


def test_an_optimizer_that_is_let_go_holds_no_file(tmp_path: Path):
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    gc.collect()
    before = descriptors()
    for _ in range(3):
        trained(PagedAdamW, 32, budget=2 * PAGE, page_size=PAGE, directory=tmp_path)
    gc.collect()
    assert descriptors() == before
