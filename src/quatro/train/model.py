"""What is trained: low-rank factors on a frozen base, in 4 bits or as it is."""

from difflib import get_close_matches
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from quatro.format.errors import CheckpointError, RecipeError
from quatro.integrations.fused_lora import fuse_adapters
from quatro.integrations.loading import load
from quatro.integrations.summary import summarize
from quatro.train.recipe import Lora, Recipe

LONGEST = 1024
"""The default max_length, where the model can read as much."""


def adapted_model(recipe: Recipe) -> PeftModel:
    """The base with a new adapter, which is all that is trained. Seed torch before: the factors A are random.

    Raises CheckpointError for a base that cannot be loaded, RecipeError for target_modules it does not have.
    """
    base = load(recipe.model, **recipe.quantization.model_dump())[0] if recipe.method == "qlora" else _as_it_is(recipe.model)
    model = get_peft_model(base, lora_config(recipe.lora, base))
    fuse_adapters(model)
    return model


def lora_config(lora: Lora, base: nn.Module) -> LoraConfig:
    """PEFT's own value of a recipe's `lora:`."""
    _check_targets(lora, base)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=_whole(lora.lora_alpha),
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        target_parameters=list(lora.target_parameters) or None,
        task_type=TaskType.CAUSAL_LM,
    )


def reading_length(model: str, wanted: int | None) -> int:
    """max_length as it is meant: what was asked, else 1024 or what the model reads. Raises RecipeError for more than that."""
    most = _positions(model)
    if wanted is None:
        return min(LONGEST, most or LONGEST)
    if most and wanted > most:
        raise RecipeError(f"data.max_length is {wanted}, but {model} reads at most {most} tokens (max_position_embeddings)")
    return wanted


def weight_counts(model: PeftModel) -> tuple[int, int]:
    """(trainable weights, all weights); a weight in 4 bits counts as one, not as half a byte."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trainable, summarize(model).parameters


def _positions(model: str) -> int | None:
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"could not read the configuration of {model}: {str(error).splitlines()[0]}") from error
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def _as_it_is(model: str) -> PreTrainedModel:
    """A dense base; on a CPU in float32, whose products are fast there."""
    dtype: Any = "auto" if torch.accelerator.is_available() else torch.float32
    try:
        found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"could not load the model from {model}: {str(error).splitlines()[0]}") from error
    if getattr(found.config, "quantization_config", None) is not None:
        raise CheckpointError(f"{model} is quantized already; method lora needs a dense base: use method qlora")
    return found


def _check_targets(lora: Lora, base: nn.Module) -> None:
    _check_parameters(lora, base)
    if isinstance(lora.target_modules, str):
        return
    linear = sorted({name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, nn.Linear)})
    for target in lora.target_modules:
        if target.rpartition(".")[2] not in linear:
            close = get_close_matches(target, linear, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise RecipeError(
                f"lora.target_modules: this model has no linear layer {target!r}; {guess}it has {', '.join(linear)}"
            )


def _check_parameters(lora: Lora, base: nn.Module) -> None:
    fused = sorted(name for name, parameter in base.named_parameters() if parameter.dim() == 3)
    for target in lora.target_parameters:
        if not any(f".{name}".endswith(f".{target}") for name in fused):
            has = f"it has {', '.join(fused[:4])}" if fused else "it has no fused experts"
            raise RecipeError(f"lora.target_parameters: this model has no fused parameter {target!r}; {has}")
    if lora.target_parameters and lora.lora_dropout:
        raise RecipeError(
            f"lora.lora_dropout is {lora.lora_dropout}, but target_parameters take none: PEFT adapts parameters as they are, not what is "
            "multiplied with them; set lora_dropout to 0"
        )


def _whole(alpha: float) -> Any:
    return int(alpha) if alpha == int(alpha) else alpha
