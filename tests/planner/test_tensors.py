"""A model's tensors are known from its configuration: their number exactly, and their bytes in 4 bits to the byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import quatro
from quatro.format.errors import InputError
from quatro.integrations.summary import summarize
from quatro.planner.adapters import adapters
from quatro.planner.models import MODELS, skeleton_of
from quatro.planner.weights import bytes_in_4_bits
from tests.conformance.architectures import ARCHITECTURES, Architecture

PLANNED = {name: one for name, one in ARCHITECTURES.items() if one.made().model_type in MODELS}
ASKED = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "gptj", "gpt_neox", "opt", "bloom", "t5", "whisper", "roberta",
         "mixtral", "qwen3_moe"]  # fmt: skip


def model_of(architecture: Architecture, config: Any) -> Any:
    kind = architecture.kind
    return kind(config) if hasattr(kind, "forward") else kind.from_config(config)


def test_every_architecture_that_was_promised_is_planned() -> None:
    assert set(ASKED) <= set(PLANNED)


@pytest.mark.parametrize("full", [True, False], ids=["complete", "as saved"])
@pytest.mark.parametrize("size", ["tiny", "published"])
@pytest.mark.parametrize("name", PLANNED)
def test_the_number_of_parameters_is_transformers_own(name: str, size: str, full: bool) -> None:
    architecture = PLANNED[name]
    config = architecture.made() if size == "tiny" else type(architecture.made())()
    with torch.device("meta"):
        model = model_of(architecture, config)
    values = json.loads(config.to_json_string(use_diff=not full))
    assert skeleton_of(values).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gpt2", "opt", "bloom", "gpt_neo", "smollm3", "whisper", "roberta", "t5", "qwen2"]
)
def test_ends_that_are_tied_or_not_are_counted_once_or_twice(name: str) -> None:
    architecture = PLANNED[name]
    for tied in (True, False):
        config = type(architecture.made())(**architecture.options, tie_word_embeddings=tied)
        with torch.device("meta"):
            model = model_of(architecture, config)
        values = {**config.to_dict(), "tie_word_embeddings": tied}
        assert skeleton_of(values).parameters == sum(parameter.numel() for parameter in model.parameters())


OPTIONS = {"nf4": {}, "plain scales": {"double_quant": False, "block_size": 32}, "long blocks": {"block_size": 256}}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", PLANNED)
def test_the_bytes_in_4_bits_are_those_of_the_loaded_model(
    name: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    architecture = PLANNED[name]
    model_of(architecture, architecture.made()).to(dtype).save_pretrained(tmp_path)
    loaded = architecture.kind.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig(**options))
    skeleton = skeleton_of(json.loads((tmp_path / "config.json").read_text()))
    planned = bytes_in_4_bits(skeleton, quatro.QuantSpec(**options), dtype.itemsize)
    assert sum(planned.values()) == summarize(loaded).bytes


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("name", sorted(set(PLANNED) - {"gpt_oss"}))
def test_all_linear_adapts_what_peft_adapts(name: str, tmp_path: Path) -> None:
    architecture = PLANNED[name]
    model_of(architecture, architecture.made()).to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = architecture.kind.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig())
    adapted = get_peft_model(loaded, LoraConfig(r=4, target_modules="all-linear"))
    skeleton = skeleton_of(architecture.made().to_dict())
    trained = sum(one.parameters for one in adapters(skeleton, 4))
    assert trained == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trained + skeleton.packed_parameters == sum(parameter.numel() for parameter in adapted.parameters())


def test_layers_are_adapted_by_name_or_refused_with_the_nearest() -> None:
    skeleton = skeleton_of(PLANNED["llama"].made().to_dict())
    assert sum(one.parameters for one in adapters(skeleton, 8, ["q_proj", "v_proj"])) == 2 * 2 * 8 * (64 + 64)
    with pytest.raises(InputError, match=r"no linear layer 'q_prj' to adapt; did you mean 'q_proj'\?"):
        adapters(skeleton, 8, ["q_prj"])


def test_an_unknown_model_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(InputError, match="model_type 'lama' cannot be planned; the nearest are llama"):
        skeleton_of({"model_type": "lama"})
    with pytest.raises(InputError, match="no model_type"):
        skeleton_of({"hidden_size": 64})


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size"])
def test_a_field_that_is_needed_is_named_where_it_is_missing_or_no_number(name: str) -> None:
    config = PLANNED["llama"].made().to_dict()
    with pytest.raises(InputError, match=f"has no .*{name}"):
        skeleton_of({**config, name: None})
    for wrong in ("64", -1, 0, 2.5, True):
        with pytest.raises(InputError, match=name):
            skeleton_of({**config, name: wrong})
