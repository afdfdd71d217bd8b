"""Paged optimizers of a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from quatro.format.errors import InputError
from quatro.optim import PagedAdamW, PagedLion
from quatro.train.arguments import training_arguments
from quatro.train.optimizer import PAGED, paged_optimizer
from quatro.train.recipe import Recipe, recipe_of
from quatro.train.run import train

LEAST: dict[str, Any] = {"model": "m", "data": {"train": "d"}, "output_dir": "o"}


def chosen(tmp_path: Path, **values: Any) -> Any:
    recipe = recipe_of({**LEAST, **values})
    return paged_optimizer(recipe, training_arguments(recipe.train, str(tmp_path)), tmp_path)


@pytest.mark.parametrize("name", PAGED)
def test_each_name_is_an_optimizer_with_the_recipe_s_budget_and_rates(name: str, tmp_path: Path) -> None:
    train = {"optim": name, "learning_rate": 3e-4, "adam_beta2": 0.98}
    kind, options = chosen(tmp_path, train=train, optimizer={"budget": "64MiB", "tier": "disk"})
    assert kind is (PagedLion if "lion" in name else PagedAdamW)
    optimizer = kind([torch.nn.Parameter(torch.ones(3))], **options)
    assert optimizer.state_bits == (8 if "8bit" in name else 32)
    assert (optimizer.budget, optimizer.tier, optimizer.directory) == (64 << 20, "disk", tmp_path)
    assert optimizer.param_groups[0]["lr"] == 3e-4
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)


def test_transformers_own_optimizers_are_left_to_it(tmp_path: Path) -> None:
    assert chosen(tmp_path, train={"optim": "adamw_torch"}) is None


def test_anyone_s_trainer_takes_one_by_optimizer_cls_and_kwargs(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 3)
    args = training_arguments({"max_steps": 1, "weight_decay": 0.1}, str(tmp_path))
    trainer = Trainer(model=model, args=args, optimizer_cls_and_kwargs=(PagedAdamW, {"lr": 1e-3, "budget": "8MiB"}))
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, PagedAdamW)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.1]


@pytest.mark.parametrize(
    ("optimizer", "said"), [({"budget": 1024}, "holds no two pages"), ({"budget": "8MiB", "tier": "ram"}, "tier ram")]
)
def test_a_budget_that_cannot_hold_is_refused_before_anything_is_written(
    recipe: Callable[..., Recipe], optimizer: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        train(recipe(lora={"r": 1024}, optimizer=optimizer))
    assert not (tmp_path / "run").exists()
