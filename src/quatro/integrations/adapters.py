"""Put an adapter on a base, after making sure that it was made for it."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from quatro.format.errors import AdapterError
from quatro.integrations.fused_lora import fuse_adapters

PREFIX = "base_model.model."


def attach(model: PreTrainedModel, path: str | Path, name: str = "default", trainable: bool = False) -> PeftModel:
    """The model with the adapter in directory `path`, in PEFT's layout; its products are fused with those of 4-bit layers.

    Raises AdapterError where the directory is no adapter, or one whose shapes do not fit this base; the letter names both.
    """
    directory = Path(path).expanduser()
    _read_adapter_config(directory)
    _check_shapes(model, directory)
    adapted = _load(model, str(directory), name, trainable)
    fuse_adapters(adapted)
    return adapted


def _load(model: PreTrainedModel | PeftModel, directory: str, name: str, trainable: bool) -> PeftModel:
    if isinstance(model, PeftModel):
        model.load_adapter(directory, adapter_name=name, is_trainable=trainable)
        return model
    return PeftModel.from_pretrained(model, directory, adapter_name=name, is_trainable=trainable)


def _read_adapter_config(directory: Path) -> dict[str, Any]:
    file = directory / "adapter_config.json"
    if not directory.is_dir() or not file.is_file():
        what = "has no adapter_config.json" if directory.is_dir() else "is not a directory"
        raise AdapterError(f"{directory} {what}; name a directory that PEFT's save_pretrained or `quatro train` wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise AdapterError(f"{file} names no peft_type; it is not a PEFT adapter's configuration")
    return config


def _check_shapes(model: nn.Module, directory: Path) -> None:
    """Compare every low-rank factor with the layer it would adapt."""
    layers = dict(_unwrapped(model).named_modules())
    for key, shape in _tensor_shapes(directory / "adapter_model.safetensors").items():
        path, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if not kind.startswith(("A", "B")):
            continue
        layer = layers.get(path)
        if layer is None:
            raise AdapterError(
                f"the adapter in {directory} adapts {path}, a layer this base does not have; it was made for another model"
            )
        expected = getattr(layer, "in_features", None) if kind[0] == "A" else getattr(layer, "out_features", None)
        found = shape[1] if kind[0] == "A" else shape[0]
        if expected is not None and found != expected:
            side = "inputs" if kind[0] == "A" else "outputs"
            raise AdapterError(
                f"the adapter in {directory} was made for another base: its {path} has {found} {side} ({kind} is {tuple(shape)}), "
                f"this base's has {expected}"
            )


def _tensor_shapes(file: Path) -> dict[str, list[int]]:
    if not file.is_file():
        raise AdapterError(f"{file} is missing; an adapter needs its weights as safetensors")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from error


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model
