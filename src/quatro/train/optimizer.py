"""Which optimizers are quatro's own, and what does a recipe tell them?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from quatro.train.recipe import Recipe

PAGED = {
    "paged_adamw_32bit": ("adamw", 32),
    "paged_adamw_8bit": ("adamw", 8),
    "paged_lion_32bit": ("lion", 32),
    "paged_lion_8bit": ("lion", 8),
}
"""transformers' names for them: (rule, bits of the states)."""


def paged_optimizer(recipe: "Recipe", arguments: "TrainingArguments", directory: Path) -> tuple[type, dict[str, Any]] | None:
    """Class and arguments as Trainer's optimizer_cls_and_kwargs takes them; None for an optimizer of transformers' own.

    directory: where states go that the recipe's budget does not hold.
    """
    found = PAGED.get(recipe.train["optim"])
    if found is None:
        return None
    from quatro.optim import PagedAdamW, PagedLion

    rule, bits = found
    chosen = recipe.optimizer
    options: dict[str, Any] = {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "state_bits": bits,
        "budget": chosen.budget,
        "tier": chosen.tier,
        "directory": directory,
    }
    if rule == "lion":
        return PagedLion, options
    return PagedAdamW, {**options, "eps": arguments.adam_epsilon}


def check_budget(recipe: "Recipe", model: "nn.Module") -> None:
    """Raise InputError for a budget or a tier that cannot hold the states of what is trained, before anything is written."""
    from quatro.train.arguments import training_arguments

    found = paged_optimizer(recipe, training_arguments(recipe.train, recipe.output_dir), Path(recipe.output_dir))
    if found is not None:
        kind, options = found
        kind([p for p in model.parameters() if p.requires_grad], **options).check()
