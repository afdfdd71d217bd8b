"""Mixtures of experts of transformers, in 4 bits: their experts too."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel

import quatro
from quatro.format.errors import AdapterError
from quatro.integrations.adapters import attach
from quatro.integrations.fused_lora import fuse_adapters
from quatro.integrations.summary import left_behind, summarize
from quatro.nn.experts import Experts4bit
from tests.twins import dense_twin, losses_of

IDS = torch.arange(40).view(2, 20) % 96
SHAPE = {"vocab_size": 96, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts_per_tok": 2, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3Moe": {"num_experts": 6, "moe_intermediate_size": 96, "head_dim": 32},  # rows of 96 hold no whole block
    "Mixtral": {"num_local_experts": 4},
    "Olmoe": {"num_experts": 6},
    "GptOss": {"num_local_experts": 4, "head_dim": 32},
}
MOST_BYTES = 0.32
"""Of the bfloat16 bytes of all matrices but embedding, router and head."""


@pytest.fixture(params=MODELS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**{**SHAPE, **MODELS[request.param]})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def quantized(directory: Path, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=quatro.QuatroConfig(**options))


def test_nothing_large_stays_behind(directory: Path) -> None:
    model = quantized(directory)
    assert left_behind(model) == {}
    apart = ("embed_tokens", "lm_head", "router", "mlp.gate.", "block_sparse_moe.gate.")
    twin = AutoModelForCausalLM.from_pretrained(directory)
    matrices = [p.numel() for name, p in twin.named_parameters() if p.dim() > 1 and not any(part in name for part in apart)]
    matrices_bytes = summarize(model).in_4bit * summarize(model).bits_per_weight / 8
    biases = sum(p.numel() for name, p in twin.named_parameters() if name.endswith("proj_bias"))
    assert summarize(model).in_4bit == sum(matrices) - biases
    assert matrices_bytes + 2 * biases <= MOST_BYTES * 2 * sum(matrices)


def test_it_is_the_dense_model_of_its_dequantized_weights(directory: Path) -> None:
    model = quantized(directory, precision="exact")
    with torch.no_grad():
        found, expected = model(IDS).logits, dense_twin(model, directory)(IDS).logits
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


def test_saved_and_loaded_it_answers_the_same(directory: Path, tmp_path: Path) -> None:
    model = quantized(directory)
    quatro.save(model, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert summarize(again).bits_per_weight == summarize(model).bits_per_weight


def test_an_adapter_on_its_attention_learns(directory: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(quantized(directory), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    losses = losses_of(model, lambda: model(input_ids=IDS, labels=IDS).loss, steps=4)
    assert losses[-1] < losses[0]


def experts_adapter(model: PreTrainedModel) -> PeftModel:
    torch.manual_seed(1)
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"], target_parameters=targets, init_lora_weights=False)
    return get_peft_model(model, config)


def test_an_adapter_on_experts_is_what_peft_makes_of_the_dense_model(directory: Path, tmp_path: Path) -> None:
    dense = experts_adapter(dense_twin(quantized(directory), directory))
    dense.save_pretrained(tmp_path / "adapter")
    packed = attach(quantized(directory, precision="exact"), tmp_path / "adapter", trainable=True)
    assert set(get_peft_model_state_dict(packed)) == set(get_peft_model_state_dict(dense))
    found, expected = packed(input_ids=IDS, labels=IDS), dense(input_ids=IDS, labels=IDS)
    difference = (found.logits - expected.logits).detach()
    assert float(difference.norm()) <= 1e-5 * float(expected.logits.detach().norm())
    torch.autograd.backward([found.loss, expected.loss])
    gradients = {name: p.grad for name, p in dense.named_parameters() if p.grad is not None}
    for name, parameter in packed.named_parameters():
        if parameter.requires_grad:
            assert float((parameter.grad - gradients[name]).norm()) <= 1e-4 * float(gradients[name].norm()), name
    with packed.disable_adapter(), torch.no_grad():
        assert torch.equal(packed(IDS).logits, quantized(directory, precision="exact")(IDS).logits)


def test_an_adapter_on_experts_learns_and_comes_back_the_same(directory: Path, tmp_path: Path) -> None:
    model = experts_adapter(quantized(directory))
    losses = losses_of(model, lambda: model(input_ids=IDS, labels=IDS).loss, steps=3, rate=1e-3)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "adapter")
    fuse_adapters(model)  # its attention too, as `attach` does
    with torch.no_grad():
        again = attach(quantized(directory), tmp_path / "adapter").eval()
        assert torch.equal(again(IDS).logits, model.eval()(IDS).logits)
    with pytest.raises(AdapterError, match="take no change in place"):
        model.merge_and_unload()


def test_experts_that_a_user_skips_stay_dense(directory: Path) -> None:
    model = quantized(directory, skip_modules=["experts"])
    assert not any(isinstance(module, Experts4bit) for module in model.modules())
    assert set(summarize(model).dense_layers.values()) >= {"in skip_modules"}
    with torch.no_grad():
        assert torch.isfinite(model(IDS).logits).all()
