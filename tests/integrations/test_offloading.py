import logging
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from quatro.integrations.fused_lora import fuse_adapters
from quatro.integrations.loading import load
from quatro.integrations.offloading import bring_adapters_into_memory
from tests.integrations.conftest import IDS

PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
PLACES = {name: "disk" if name.endswith("1") else "cpu" for name in PARTS}


def adapted(model: Any) -> PeftModel:
    torch.manual_seed(0)
    found = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    bring_adapters_into_memory(found)
    fuse_adapters(found)
    for name, parameter in sorted(found.named_parameters()):
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    return found.train()


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_a_model_that_is_partly_on_the_disk_answers_as_one_in_memory_and_says_that_it_is_slow(
    tiny_with_tokenizer: Path, tmp_path: Path, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING, "quatro"):
        away, _ = load(tiny_with_tokenizer, device_map=PLACES, offload_folder=tmp_path / "offload")
    assert "stay on the disk" in caplog.text
    assert away.model.layers[1].mlp.up_proj.weight.is_meta
    whole, _ = load(tiny_with_tokenizer)
    with torch.no_grad():
        assert torch.equal(away(IDS).logits, whole(IDS).logits)
        assert torch.equal(
            away.generate(IDS[:, :4], max_new_tokens=4, do_sample=False),
            whole.generate(IDS[:, :4], max_new_tokens=4, do_sample=False),
        )


def test_an_adapter_on_it_has_the_gradients_that_it_has_in_memory(tiny_with_tokenizer: Path, tmp_path: Path) -> None:
    away = adapted(load(tiny_with_tokenizer, device_map=PLACES, offload_folder=tmp_path / "offload")[0])
    found, expected = gradients(away), gradients(adapted(load(tiny_with_tokenizer)[0]))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_model_larger_than_the_memory_it_is_given_is_spread_over_the_disk(tiny_with_tokenizer: Path, tmp_path: Path) -> None:
    model, _ = load(tiny_with_tokenizer, device_map="auto", max_memory={"cpu": 40_000}, offload_folder=tmp_path / "offload")
    assert "disk" in model.hf_device_map.values()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, load(tiny_with_tokenizer)[0](IDS).logits)
