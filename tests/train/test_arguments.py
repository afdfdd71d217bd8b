import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments

from quatro.format.errors import RecipeError
from quatro.train.arguments import REFUSED, check_arguments, training_arguments


def test_names_and_types_are_transformers_own() -> None:
    assert check_arguments({"learning_rate": "2e-4", "max_steps": 5, "weight_decay": 0}) == {
        "learning_rate": 2e-4,
        "max_steps": 5,
        "weight_decay": 0.0,
    }


def test_every_refused_name_is_one_that_transformers_has() -> None:
    """local_rank and the like come and go between versions; a name that nobody has need not be refused."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(REFUSED) <= known


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rates": 1}, r"unknown key 'train.learning_rates'; did you mean 'learning_rate'"),
        ({"zzz": 1}, "unknown key 'train.zzz'; nothing like it is known"),
        ({"learning_rate": "fast"}, "train.learning_rate is 'fast': Input should be a valid number"),
        ({"max_steps": 2.5}, "train.max_steps is 2.5"),
        ({"lr_scheduler_type": "cosin"}, "train: .*cosin.* is not a valid SchedulerType"),
        ({"warmup_steps": -1}, "train: Got warmup_steps = -1"),
        ({"load_best_model_at_end": True, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}, "round multiple"),
        ({"optim": "adamw_8bit"}, r"unknown train.optim 'adamw_8bit'; did you mean 'paged_adamw_8bit'\?"),
        ({"optim": "adamw"}, r"unknown train.optim 'adamw'; did you mean 'adamw_torch'\?"),
        ({"output_dir": "x"}, "train.output_dir cannot be set: output_dir is the recipe's own key"),
        ({"logging_nan_inf_filter": True}, "a loss that is not a number always stops a run"),
        ({"fsdp": "full_shard"}, "training on several devices comes later"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_arguments(values)


def test_nan_is_never_hidden_and_nothing_is_reported_elsewhere() -> None:
    args = training_arguments({"max_steps": 1}, "somewhere")
    assert args.logging_nan_inf_filter is False
    assert args.report_to == []
    assert args.output_dir == "somewhere"


def test_gradient_checkpointing_goes_by_its_old_name_too() -> None:
    args = training_arguments({"gradient_checkpointing": True}, "somewhere")
    assert getattr(args, "activation_checkpointing", args.gradient_checkpointing) is True
