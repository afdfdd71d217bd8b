import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig

import quatro
from quatro.format.errors import AdapterError, CheckpointError, InputError
from quatro.integrations.checkpoint import Checkpoint
from quatro.integrations.merging import merge_dense
from tests.integrations.conftest import IDS
from tests.twins import dense_twin

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}},
    "a module trained whole": {"modules_to_save": ["lm_head"]},
}
SAME = 1e-6
"""Relative, of logits: both sums are PEFT's, in float32."""


@pytest.fixture(scope="module")
def source(tiny_with_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in float32, so that rounding hides nothing."""
    directory = tmp_path_factory.mktemp("source") / "model"
    AutoModelForCausalLM.from_pretrained(tiny_with_tokenizer, dtype=torch.float32).save_pretrained(directory)
    for file in tiny_with_tokenizer.glob("tokenizer*"):
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def twin(directory: Path) -> Any:
    """The dense model of the weights that nf4 keeps."""
    return dense_twin(AutoModelForCausalLM.from_pretrained(directory, quantization_config=quatro.QuatroConfig()), directory)


def adapter_on(base: Any, directory: Path, **options: Any) -> PeftModel:
    torch.manual_seed(0)
    targets = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    model = get_peft_model(base, LoraConfig(**{"r": 4, **targets, **options}))
    for name, parameter in model.named_parameters():
        if "magnitude" in name or "modules_to_save" in name:
            parameter.data.add_(torch.randn_like(parameter) / 8)
    model.save_pretrained(directory)
    return model.eval()


def same(directory: Path, expected: torch.nn.Module) -> bool:
    merged = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        found, wanted = merged(IDS).logits, expected(IDS).logits
    return bool((found - wanted).norm() <= SAME * wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_is_pefts_own_on_the_dense_model_of_the_dequantized_weights(source: Path, tmp_path: Path, kind: str) -> None:
    expected = adapter_on(twin(source), tmp_path / "adapter", **KINDS[kind])
    quatro.merge(source, tmp_path / "adapter", tmp_path / "out")
    assert same(tmp_path / "out", expected.merge_and_unload())
    assert not same(tmp_path / "out", twin(source)), "the adapter must count"


def test_onto_the_original_weights_nothing_is_rounded(source: Path, tmp_path: Path) -> None:
    expected = adapter_on(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), tmp_path / "adapter")
    merge_dense(source, tmp_path / "adapter", tmp_path / "out", onto="original")
    assert same(tmp_path / "out", expected.merge_and_unload())


@pytest.mark.parametrize("quant_type", ["nf4", "int4"])
def test_a_base_in_4_bits_is_merged_from_its_own_codes(source: Path, tmp_path: Path, quant_type: str) -> None:
    """nf4 is saved in bitsandbytes' layout, int4 in quatro's."""
    model, tokenizer = quatro.load(source, quant_type=quant_type, precision="exact")
    quatro.save(model, tmp_path / "packed", tokenizer)
    expected = adapter_on(model, tmp_path / "adapter")
    merge_dense(tmp_path / "packed", tmp_path / "adapter", tmp_path / "out")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(IDS).logits
        wanted = expected(IDS).logits
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    with pytest.raises(CheckpointError, match="original weights are not there"):
        merge_dense(tmp_path / "packed", tmp_path / "adapter", tmp_path / "other", onto="original")


def test_transposed_layers_are_merged_as_they_are_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    targets = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    expected = adapter_on(twin(tmp_path / "gpt2"), tmp_path / "adapter", **targets)
    merge_dense(tmp_path / "gpt2", tmp_path / "adapter", tmp_path / "out")
    assert same(tmp_path / "out", expected.merge_and_unload())


def test_a_merged_checkpoint_is_dense_in_the_bases_dtype_and_brings_the_tokenizer(
    tiny_with_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quatro.integrations.merging.SHARD", 20_000)
    adapter_on(AutoModelForCausalLM.from_pretrained(tiny_with_tokenizer), tmp_path / "adapter")
    seen: list[tuple[int, int]] = []
    merge_dense(
        tiny_with_tokenizer, tmp_path / "adapter", tmp_path / "out", progress=lambda read, all: seen.append((read, all))
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    tensors = Checkpoint(tmp_path / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {"BF16"}
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    adapter_on(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), tmp_path / "adapter")
    with pytest.raises(InputError, match="choose dense"):
        quatro.merge(source, tmp_path / "adapter", tmp_path / "out", mode="8bit")
    with pytest.raises(CheckpointError, match="onto dequantized or original"):
        merge_dense(source, tmp_path / "adapter", tmp_path / "out", onto="air")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        merge_dense(source, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors"), "the adapter was left alone"


@pytest.mark.parametrize(
    ("settings", "letter"),
    [
        ({"init_lora_weights": "pissa"}, "begun with pissa"),
        ({"bias": "all"}, "trains biases"),
        ({"bias": "lora_only"}, "trains biases"),
    ],
)
def test_adapters_that_files_alone_cannot_merge_are_refused_by_name(
    source: Path, tmp_path: Path, settings: Any, letter: str
) -> None:
    adapter_on(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(AdapterError, match=letter):
        merge_dense(source, tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_trained_whole_is_refused_where_embedding_and_head_are_one(source: Path, tmp_path: Path) -> None:
    tied = tmp_path / "tied"
    shutil.copytree(source, tied)
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tied / "config.json").write_text(json.dumps(config))
    adapter_on(
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
        tmp_path / "adapter",
        modules_to_save=["embed_tokens"],
    )
    with pytest.raises(AdapterError, match="one tensor"):
        merge_dense(tied, tmp_path / "adapter", tmp_path / "out")


def test_fused_experts_are_merged_onto_original_weights_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(vocab_size=96, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                           num_key_value_heads=2, num_local_experts=4)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    adapter_on(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="fused experts"):
        merge_dense(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
