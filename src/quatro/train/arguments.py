"""Which of transformers' TrainingArguments can a recipe set, and what is each checked for?"""

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from quatro.format.errors import RecipeError, did_you_mean
from quatro.train.optimizer import PAGED

if TYPE_CHECKING:
    from transformers import TrainingArguments

OPTIMIZERS = ("adafactor", "adagrad", "adamw_torch", "adamw_torch_fused", *PAGED, "rmsprop", "sgd")
REFUSED = {
    "output_dir": "output_dir is the recipe's own key, beside train:",
    "resume_from_checkpoint": "say --resume on the command line; a run with checkpoints goes on by itself",
    "logging_nan_inf_filter": "a loss that is not a number always stops a run here",
    "disable_tqdm": "the progress bar is quatro's own, and quiet where there is no terminal",
    **dict.fromkeys(
        ["remove_unused_columns", "label_names", "prediction_loss_only", "do_train", "do_eval", "do_predict", "eval_on_start",
         "include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "use_cache", "length_column_name"],
        "it has no effect here: quatro prepares data and evaluation itself",
    ),
    **dict.fromkeys(
        ["deepspeed", "fsdp", "fsdp_config", "local_rank", "parallelism_config"], "training on several devices comes later"
    ),
    **dict.fromkeys(
        ["push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"],
        "the adapter is written to output_dir; publish it from there",
    ),
}  # fmt: skip
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Names that newer transformers deprecates, and what they are called there."""


def check_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with their types settled. Raises RecipeError for unknown names, wrong types and what quatro does not do."""
    for name in values:
        _check_name(name)
    checked = {name: _typed(name, value) for name, value in values.items()}
    _check_optimizer(checked.get("optim"))
    training_arguments(checked, "unused")
    return checked


def training_arguments(values: Mapping[str, Any], output_dir: str) -> "TrainingArguments":
    """transformers' own value of a recipe's `train:`, with what quatro always sets."""
    import torch
    from transformers import TrainingArguments

    known = argument_types()
    named = {RENAMED[name] if RENAMED.get(name) in known else name: value for name, value in values.items()}
    always = {"output_dir": output_dir, "remove_unused_columns": False, "logging_nan_inf_filter": False, "disable_tqdm": True}
    try:
        return TrainingArguments(**{"report_to": "none", "use_cpu": not torch.accelerator.is_available(), **named, **always})
    except (ValueError, ImportError) as error:
        raise RecipeError(f"train: {' '.join(str(error).split())}") from None


@cache
def argument_types() -> dict[str, Any]:
    """Every TrainingArguments name with its type."""
    from transformers import TrainingArguments

    return {field.name: field.type for field in dataclasses.fields(TrainingArguments)}


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A clause that names the few closest words, for lists too long to print."""
    close = get_close_matches(word, list(allowed), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "nothing like it is known"


def _check_name(name: str) -> None:
    if name in REFUSED:
        raise RecipeError(f"train.{name} cannot be set: {REFUSED[name]}")
    if name not in argument_types():
        raise RecipeError(
            f"unknown key 'train.{name}'; {nearest(name, argument_types())} The names are transformers' TrainingArguments"
        )


def _typed(name: str, value: Any) -> Any:
    try:
        return TypeAdapter(argument_types()[name]).validate_python(value)
    except ValidationError as error:
        raise RecipeError(f"train.{name} is {value!r}: {error.errors()[0]['msg']}") from None


def _check_optimizer(name: Any) -> None:
    if name is None or name in OPTIMIZERS:
        return
    raise RecipeError(f"unknown train.optim {str(name)!r}; {did_you_mean(str(name), OPTIMIZERS)}")
