"""What a step is planned to keep for its backward pass is what autograd saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor

import quatro
from quatro.integrations.fused_lora import fuse_adapters
from quatro.kernels.compute import has_bf16_units
from quatro.planner.asking import plan

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
WIDE = {**SHAPE, "intermediate_size": 704}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**WIDE, "num_key_value_heads": 2}),
    "mistral": ("Mistral", {**WIDE, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2", {**WIDE, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**WIDE, "num_key_value_heads": 2, "head_dim": 64}),
    "smollm3": ("SmolLM3", {**WIDE, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "phi3": ("Phi3", {**WIDE, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoX", WIDE),
    "gpt2": ("GPT2", {"vocab_size": 128, "n_embd": 256, "n_layer": 3, "n_head": 4, "n_positions": 256, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
                      "embd_pdrop": 0.0}),
    "opt": ("OPT", {**SHAPE, "ffn_dim": 704, "word_embed_proj_dim": 256, "dropout": 0.0}),
}  # fmt: skip
BATCH, LENGTH, R = 2, 128, 8
CLOSE = 0.01
"""Rotary positions, and statistics of norms."""


def saved_bytes(model: Any, bf16: bool) -> int:
    """Of all tensors that autograd holds after a forward pass below the head, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(3, 128, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        base = model.get_base_model()
        _ = getattr(base, base.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state
        return sum(found.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_what_autograd_saves(name: str, compute: str, dropout: float, tmp_path: Path) -> None:
    if compute == "bfloat16" and not has_bf16_units():
        pytest.skip("without bfloat16 units quatro's layers compute in float32")
    kind, options = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**options)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig())
    adapter = LoraConfig(r=R, lora_dropout=dropout, target_modules="all-linear")
    model = get_peft_model(base, adapter).train()
    fuse_adapters(model)
    planned = plan(
        config.to_dict(), r=R, batch=BATCH, length=LENGTH, compute=compute, dropout=dropout, dtype="bfloat16", device="cpu"
    )
    assert planned.parts["activations"].bytes == pytest.approx(saved_bytes(model, compute == "bfloat16"), rel=CLOSE)


def test_dropping_a_part_of_the_formula_would_be_seen() -> None:
    """The smallest part that is planned apart, results of attention, is larger than the tolerance."""
    config = transformers.LlamaConfig(**MODELS["llama"][1]).to_dict()
    found = plan(config, r=R, batch=BATCH, length=LENGTH, dropout=0.0)
    attention = 3 * 2 * BATCH * LENGTH * 256
    assert attention > CLOSE * found.parts["activations"].bytes
