"""Adapters that are broken or lie: each is refused by one sentence, whether it is put on a base or merged into one."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quatro.format.errors import AdapterError
from quatro.integrations.adapters import attach
from quatro.integrations.merging import merge_dense

FILE = "adapter_model.safetensors"
UP = "base_model.model.model.layers.0.mlp.up_proj"
NORM = "base_model.model.model.norm"


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapter") / "whole"
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config).save_pretrained(directory)
    return directory


def renamed(tensors: dict[str, Any], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


ATTACKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "NaN": (lambda t: t[f"{UP}.lora_A.weight"].fill_(torch.nan), "NaN or Inf"),
    "Inf in one number": (lambda t: t[f"{UP}.lora_B.weight"].view(-1)[3:4].fill_(torch.inf), "NaN or Inf"),
    "no tensor at all": (lambda t: t.clear(), "does not hold"),
    "a pair missing": (lambda t: [t.pop(f"{UP}.lora_{half}.weight") for half in "AB"], "does not hold"),
    "a third factor": (lambda t: t.update({f"{UP}.lora_C.weight": torch.ones(4, 4)}), "does not ask for"),
    "a base weight that nobody asked for": (lambda t: t.update({f"{UP}.weight": torch.ones(172, 64)}), "does not ask for"),
    "a pair on a norm": (lambda t: t.update({f"{NORM}.lora_A.weight": torch.ones(4, 64), f"{NORM}.lora_B.weight": torch.ones(64, 4)}),
                         "does not ask for"),
    "another rank than its configuration's": (lambda t: t.update({f"{UP}.lora_A.weight": torch.ones(2, 64), f"{UP}.lora_B.weight": torch.ones(172, 2)}),
                                              "cannot put"),
    "half a pair": (lambda t: t.pop(f"{UP}.lora_B.weight"), "but not"),
    "a layer that is not there": (lambda t: t.update({f"{UP}s.lora_A.weight": torch.ones(4, 64), f"{UP}s.lora_B.weight": torch.ones(172, 4)}),
                                  "a layer this base does not have"),
    "a path that climbs": (lambda t: t.update({"../../x.lora_A.weight": torch.ones(4, 64), "../../x.lora_B.weight": torch.ones(4, 4)}),
                           "a layer this base does not have"),
    "a name of no layer": (lambda t: t.update({"anything": torch.ones(1)}), "a layer this base does not have"),
    "too many inputs": (lambda t: t.update({f"{UP}.lora_A.weight": torch.ones(4, 65)}), "was made for another base"),
    "too many outputs": (lambda t: t.update({f"{UP}.lora_B.weight": torch.ones(1 << 20, 4)}), "was made for another base"),
}  # fmt: skip


def attacked(adapter: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(adapter, target)
    tensors = load_file(target / FILE)
    change(tensors)
    save_file(tensors, target / FILE, {"format": "pt"})
    return target


@pytest.mark.parametrize("what", ATTACKS)
def test_tensors_that_cannot_be_this_bases_are_refused(tiny_llama: Path, adapter: Path, tmp_path: Path, what: str) -> None:
    change, letter = ATTACKS[what]
    broken = attacked(adapter, tmp_path / "adapter", change)
    with pytest.raises(AdapterError, match=letter) as caught:
        attach(AutoModelForCausalLM.from_pretrained(tiny_llama), broken)
    assert "\n" not in str(caught.value)
    with pytest.raises(AdapterError, match=letter):
        merge_dense(tiny_llama, broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickled_adapter_is_not_opened(tiny_llama: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "pickled")
    (tmp_path / "pickled" / FILE).unlink()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(AdapterError, match="needs its weights as safetensors"):
        attach(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "pickled")


@pytest.mark.parametrize("kept", [0, 7, 100])
def test_a_file_cut_short_is_refused(tiny_llama: Path, adapter: Path, tmp_path: Path, kept: int) -> None:
    shutil.copytree(adapter, tmp_path / "short")
    whole = (tmp_path / "short" / FILE).read_bytes()
    (tmp_path / "short" / FILE).write_bytes(whole[:kept])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        attach(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "short")


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"peft_type": 3})])
def test_a_configuration_that_is_none_is_refused(tiny_llama: Path, adapter: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(adapter, tmp_path / "odd")
    (tmp_path / "odd" / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterError) as caught:
        attach(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "odd")
    assert "\n" not in str(caught.value)
