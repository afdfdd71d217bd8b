"""What other tools call a recipe's keys."""

import logging
from collections.abc import Mapping
from typing import Any

from quatro.format.errors import RecipeError

logger = logging.getLogger("quatro")

ALIASES = {
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "micro_batch_size": "train.per_device_train_batch_size",
    "num_epochs": "train.num_train_epochs",
    "base_model": "model",
}
"""TRL's, LLaMA-Factory's and axolotl's names, at the top of a recipe or in the section of what they mean."""


def path_of(path: str) -> str:
    """The dotted path that is meant by a path; an alias is named in the log."""
    section, _, key = path.rpartition(".")
    meant = ALIASES.get(key)
    if meant is None or meant == path or section not in ("", meant.rpartition(".")[0]):
        return path
    logger.warning("%s is read as %s", path, meant)
    return meant


def without_aliases(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values with aliases in their places. Raises RecipeError where an alias and its meaning are both there."""
    found = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for path in _paths(found):
        meant = path_of(path)
        if meant == path:
            continue
        section, _, key = path.rpartition(".")
        value = (found[section] if section else found).pop(key)
        *sections, last = meant.split(".")
        target: Any = found
        for name in sections:
            target = target.setdefault(name, {})
        if not isinstance(target, dict) or last in target:
            raise RecipeError(f"{path} and {meant} mean the same; keep one of them")
        target[last] = value
    return found


def _paths(values: Mapping[str, Any]) -> list[str]:
    inner = [f"{name}.{key}" for name, value in values.items() if isinstance(value, dict) for key in value]
    return [*(name for name in values if isinstance(name, str)), *inner]
