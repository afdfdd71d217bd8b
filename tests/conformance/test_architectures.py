"""Tiny random models of many architectures: does each quantize, and answer the same once saved and read back?"""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import quatro

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 96,
}
NAMES = ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "opt", "bloom", "xglm", "phi3", "smollm3", "gemma2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_answers_the_same_once_saved_and_read_back(name: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(name, **SMALL, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=quatro.QuatroConfig()).eval()
    assert any(isinstance(part, quatro.nn.Linear4bit) for part in model.modules())
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.arange(8)[None] + 1
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_tiny_model_falls_while_adapters_train_on_all_its_linear_layers(name: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(name, **SMALL, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig())
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids, losses = torch.arange(8)[None] + 1, []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
