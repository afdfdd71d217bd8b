from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from quatro.format.errors import CheckpointError, RecipeError
from quatro.integrations.fused_lora import FusedLoraLinear
from quatro.nn import Linear4bit
from quatro.train.model import adapted_model, reading_length, weight_counts
from quatro.train.recipe import Recipe


def test_only_the_adapter_is_trained_on_a_4_bit_base(recipe: Callable[..., Recipe]) -> None:
    model = adapted_model(recipe())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 2 * 7
    assert sum(isinstance(module, FusedLoraLinear) for module in model.modules()) == 2 * 7


def test_weights_in_4_bits_are_counted_as_weights(recipe: Callable[..., Recipe], base: Path) -> None:
    dense = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(base).parameters())
    per_layer = 4 * (64 + 64) * 2 + 4 * (64 + 32) * 2 + 4 * (64 + 96) * 3
    assert weight_counts(adapted_model(recipe())) == (2 * per_layer, dense + 2 * per_layer)


def test_method_lora_keeps_the_base_dense(recipe: Callable[..., Recipe]) -> None:
    model = adapted_model(recipe(method="lora"))
    assert not any(isinstance(module, Linear4bit) for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_named_layers_alone_are_adapted(recipe: Callable[..., Recipe]) -> None:
    model = adapted_model(recipe(lora={"r": 2, "target_modules": ["q_proj", "v_proj"]}))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_layers_that_do_not_exist_are_refused_with_those_that_do(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"no linear layer 'q_porj'; did you mean 'q_proj'\? it has down_proj, gate_proj"):
        adapted_model(recipe(lora={"target_modules": ["q_porj"]}))


def test_a_sequence_is_never_longer_than_the_model_reads(base: Path) -> None:
    assert reading_length(str(base), None) == 64
    assert reading_length(str(base), 32) == 32
    with pytest.raises(RecipeError, match="data.max_length is 65, but .* reads at most 64 tokens"):
        reading_length(str(base), 65)


def test_a_model_that_is_not_there_is_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for method in ("qlora", "lora"):
        with pytest.raises(CheckpointError):
            adapted_model(recipe(method=method, model=str(tmp_path / "nothing")))
