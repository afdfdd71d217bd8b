"""Activations within a budget: the same gradients to the bit, the oldest in a file, and nothing left behind."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quatro.format.errors import MachineError, RecipeError
from quatro.train.activations import ActivationPages
from quatro.train.directory import WEIGHTS
from quatro.train.recipe import Recipe
from quatro.train.run import train


class Tower(nn.Module):
    """Layers whose inputs, 256 KiB each, are all that is kept of them."""

    def __init__(self, layers: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + checkpoint(layer, x, use_reentrant=False)
        return x


def gradients(pages: ActivationPages | None, model: Tower, steps: int = 3) -> list[Tensor]:
    x = torch.randn(1024, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for step in range(steps):
        if pages is None:
            loss = (model(x) * (step + 1)).square().mean()
        else:
            with pages.hooks():
                loss = (model(x) * (step + 1)).square().mean()
        loss.backward()
    return [x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("budget", [1 << 16, 1 << 20, 2 << 20, 1 << 30])
def test_any_budget_gives_the_same_gradients_to_the_bit(budget: int, tmp_path: Path) -> None:
    expected = gradients(None, Tower())
    model = Tower()
    pages = ActivationPages(budget, tmp_path, model)
    assert all(map(torch.equal, gradients(pages, model), expected))
    assert pages.resident == 0, "a backward pass leaves nothing"
    assert (pages.moved.bytes_written > 0) == (budget < 3 << 20)
    pages.close()


def test_no_more_than_the_budget_is_in_memory_and_places_are_used_again(tmp_path: Path) -> None:
    model = Tower()
    pages = ActivationPages(1 << 20, tmp_path, model)
    gradients(pages, model, steps=1)
    size = os.fstat(pages._file).st_size
    gradients(pages, model, steps=4)
    assert os.fstat(pages._file).st_size == size
    assert pages.moved.most_resident <= 1 << 20
    assert 0 < pages.moved.bytes_read <= pages.moved.bytes_written, "the last to leave may be needed before they are gone"
    assert not list(tmp_path.iterdir())
    pages.close()


def test_parameters_are_never_moved(tmp_path: Path) -> None:
    model = nn.Linear(512, 512)
    model.weight.requires_grad_(False)
    pages = ActivationPages(1 << 16, tmp_path, model)
    with pages.hooks():
        model(torch.randn(2, 512, requires_grad=True)).sum().backward()
    assert pages.moved.bytes_written == 0
    pages.close()


def test_a_tensor_that_is_saved_twice_is_kept_once(tmp_path: Path) -> None:
    x = torch.randn(256, 256, requires_grad=True)
    pages = ActivationPages(1 << 30, tmp_path, nn.Identity())
    with pages.hooks():
        y = x.sin()
        loss = (y * y).sum() + (y * y).mean()
        assert pages.resident == 2 * x.numel() * 4, "x and y"
    loss.backward()
    pages.close()


@pytest.mark.parametrize("how", ["fails", "ends early"])
def test_a_disk_that_fails_ends_the_backward_pass_with_a_sentence(how: str, tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: object) -> int:
        if how == "ends early":
            return 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = Tower()
    pages = ActivationPages(1 << 19, tmp_path, model)
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(MachineError, match="last checkpoint"):
        gradients(pages, model)


def test_a_run_with_paged_activations_is_the_checkpointed_run_to_the_bit(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quatro.train.activations.LEAST", 1)
    plain = train(recipe({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}))
    shutil.move(plain.output_dir, tmp_path / "plain")
    seen: list[ActivationPages] = []
    make = ActivationPages.__init__

    def watched(pages: ActivationPages, *arguments: Any) -> None:
        make(pages, *arguments)
        seen.append(pages)

    monkeypatch.setattr(ActivationPages, "__init__", watched)
    paged = train(recipe(activations={"budget": "32KiB"}))
    assert seen[0].moved.bytes_read > 0
    assert seen[0].moved.most_resident <= 32 << 10
    for file in (WEIGHTS, "checkpoint-8/optimizer.pt"):
        assert (paged.output_dir / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_activations_and_a_checkpointing_of_ones_own_are_refused_together(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match="leave train.gradient_checkpointing_kwargs out"):
        recipe({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, activations={"budget": "1GiB"})
    with pytest.raises(RecipeError, match="'12 gigs' cannot be read"):
        recipe(activations={"budget": "12 gigs"})
