import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from quatro.data.collate import collate
from quatro.data.encode import IGNORED, Encoded
from quatro.data.tokens import TokenRows, token_rows
from quatro.format.errors import MachineError
from quatro.train.arguments import training_arguments
from quatro.train.model import adapted_model
from quatro.train.recipe import Recipe
from quatro.train.run import train
from quatro.train.trainer import QuatroTrainer, StopAtBrokenGradient


def _held() -> TokenRows:
    """Rows of very different length, so that a mean over batches is not a mean over tokens."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(2, 258, (length,), generator=generator).tolist() for length in (3, 40, 5, 4, 31)]
    return token_rows(Encoded(tokens, [IGNORED, *tokens[1:]]) for tokens in ids)


def _trainer(recipe: Recipe, tmp_path: Path, **values: Any) -> QuatroTrainer:
    args = training_arguments(values, str(tmp_path / "somewhere"))
    return QuatroTrainer(model=adapted_model(recipe), args=args, eval_dataset=_held(), data_collator=collate)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_held_out_loss_is_the_mean_over_tokens_whatever_the_batches(
    recipe: Callable[..., Recipe], tmp_path: Path, batch: int
) -> None:
    trainer = _trainer(recipe(), tmp_path, per_device_eval_batch_size=batch)
    model, total, count = trainer.model.eval(), 0.0, 0
    for row in _held():
        ids = torch.from_numpy(row["input_ids"])[None]
        logits = model(input_ids=ids).logits[0, :-1].detach().double().log_softmax(-1)
        total -= float(logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum())
        count += ids.shape[1] - 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, abs=1e-5)
    lengths = np.array([len(row["input_ids"]) - 1 for row in _held()])
    assert count == lengths.sum()


@pytest.mark.parametrize("name", ["compute_loss", "prediction_step", "evaluation_loop", "_save_checkpoint"])
def test_the_methods_we_override_are_the_ones_trainer_has(name: str) -> None:
    ours, theirs = inspect.signature(getattr(QuatroTrainer, name)), inspect.signature(getattr(Trainer, name))
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    named = [parameter.name for parameter in ours.parameters.values() if parameter.kind not in variadic]
    assert named == list(theirs.parameters)[: len(named)]


def test_a_loss_that_is_no_number_stops_the_run(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Steps of size 1e30 make the weights, and so the next loss, infinite."""
    wild = recipe(train={"learning_rate": 1e30, "optim": "sgd", "warmup_steps": 0, "save_steps": 1, "eval_strategy": "no"})
    with pytest.raises(
        MachineError, match=r"(loss|gradient) became (nan|inf) at step \d.* Lower train.learning_rate \(now 1e\+30\)"
    ):
        train(wild)
    assert not (tmp_path / "run" / "report.md").exists()


def test_a_gradient_that_is_no_number_stops_the_run_before_the_step(recipe: Callable[..., Recipe]) -> None:
    model = adapted_model(recipe())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    callback, state, args = (
        StopAtBrokenGradient(),
        SimpleNamespace(global_step=4),
        SimpleNamespace(output_dir="x", learning_rate=1),
    )
    callback.on_pre_optimizer_step(args, state, None, model=model)
    next(parameter for parameter in model.parameters() if parameter.requires_grad).grad[0, 0] = math.nan
    with pytest.raises(MachineError, match="the gradient became nan at step 5"):
        callback.on_pre_optimizer_step(args, state, None, model=model)
