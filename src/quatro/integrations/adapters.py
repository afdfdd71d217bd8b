"""Put an adapter on a base, after making sure that it was made for it."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from quatro.format.errors import AdapterError, CheckpointError
from quatro.integrations.base import base_of, check_base
from quatro.integrations.checkpoint import StoredTensor, tensors_of
from quatro.integrations.fused_lora import fuse_adapters

PREFIX, WEIGHTS = "base_model.model.", "adapter_model.safetensors"
HALVES = (
    ("lora_A", "lora_B"),
    ("lora_B", "lora_A"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_embedding_B", "lora_embedding_A"),
)


def attach(
    model: PreTrainedModel | PeftModel, path: str | Path, name: str = "default", trainable: bool = False, force: bool = False
) -> PeftModel:
    """The model with the adapter in directory `path`, in PEFT's layout; its products are fused with those of 4-bit layers.

    Raises AdapterError where the directory is no adapter, or one of another architecture or shape, or (unless force) of other weights;
    the letter names both bases.
    """
    directory = checked_adapter(path)
    check_base(directory, base_of(_unwrapped(model)), force)
    adapted = with_adapter(model, directory, name, trainable)
    fuse_adapters(adapted)
    return adapted


def checked_adapter(path: str | Path) -> Path:
    """The directory, if it holds an adapter whose tensors are whole: every factor has its other half, and no number is NaN or Inf."""
    directory = Path(path).expanduser()
    adapter_settings(directory)
    file = directory / WEIGHTS
    if not file.is_file():
        raise AdapterError(f"{file} is missing; an adapter needs its weights as safetensors")
    tensors = _tensors(file)
    _check_pairs(file, set(tensors))
    for name, tensor in tensors.items():
        numbers = tensor.read()
        if numbers.is_floating_point() and not bool(torch.isfinite(numbers.float()).all()):
            raise AdapterError(f"{file}: {name} holds NaN or Inf; the run that made it broke, so train it again")
    return directory


def _tensors(file: Path) -> dict[str, StoredTensor]:
    try:
        return tensors_of(file)
    except CheckpointError as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from error


def _check_pairs(file: Path, names: set[str]) -> None:
    for name in names:
        for half, other in HALVES:
            missing = name.replace(f".{half}", f".{other}")
            if f".{half}" in name and not name.endswith(".bias") and missing not in names:
                raise AdapterError(f"{file} holds {name} but not {missing}; the adapter is not whole")


def with_adapter(
    model: PreTrainedModel | PeftModel, directory: Path, name: str = "default", trainable: bool = False
) -> PeftModel:
    """PEFT's own model of a checked adapter. Raises AdapterError where PEFT cannot put it on, or it is not all of what PEFT would save."""
    _check_fits(model, directory)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # which is refused below
            adapted = _put_on(model, str(directory), name, trainable)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise AdapterError(f"PEFT cannot put the adapter in {directory} on this base: {reason}") from error
    _check_whole(adapted, directory, name)
    return adapted


def _put_on(model: PreTrainedModel | PeftModel, directory: str, name: str, trainable: bool) -> PeftModel:
    if isinstance(model, PeftModel):
        model.load_adapter(directory, adapter_name=name, is_trainable=trainable)
        return model
    return PeftModel.from_pretrained(model, directory, adapter_name=name, is_trainable=trainable)


def adapter_settings(directory: Path) -> dict[str, Any]:
    """PEFT's adapter_config.json. Raises AdapterError where there is none that PEFT could mean."""
    file = directory / "adapter_config.json"
    if not directory.is_dir() or not file.is_file():
        what = "has no adapter_config.json" if directory.is_dir() else "is not a directory"
        raise AdapterError(f"{directory} {what}; name a directory that PEFT's save_pretrained or `quatro train` wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") not in {str(kind.value) for kind in PeftType}:
        raise AdapterError(f"{file} names no peft_type that PEFT knows; it is not a PEFT adapter's configuration")
    return config


def _check_fits(model: nn.Module, directory: Path) -> None:
    """Every tensor must belong to a layer of the base, and every low-rank factor fit it."""
    layers = dict(_unwrapped(model).named_modules())
    for key, tensor in _tensors(directory / WEIGHTS).items():
        path, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        path = path.replace(".base_layer", "")  # of an adapter on several parameters of one module
        owner = path or key.removeprefix(PREFIX).rpartition(".")[0]
        layer = layers.get(owner) if path else layers.get(owner) or layers.get(owner.rpartition(".")[0] or owner)
        if layer is None or not key.startswith(PREFIX):
            raise AdapterError(
                f"the adapter in {directory} adapts {owner or key}, a layer this base does not have; it was made for another model"
            )
        if not kind.startswith(("A", "B")):
            continue
        expected = getattr(layer, "in_features", None) if kind[0] == "A" else getattr(layer, "out_features", None)
        found = tensor.shape[-1] if kind[0] == "A" else tensor.shape[0]
        if len(tensor.shape) == 2 and expected is not None and found != expected:
            side = "inputs" if kind[0] == "A" else "outputs"
            raise AdapterError(
                f"the adapter in {directory} was made for another base: its {owner} has {found} {side} ({kind} is {tuple(tensor.shape)}), "
                f"this base's has {expected}"
            )


def _check_whole(adapted: PeftModel, directory: Path, name: str) -> None:
    """The file must hold what PEFT would save of the adapter now that it is loaded, neither less nor more.

    Embedding and head may come along, as PEFT saves them where a vocabulary grew. Raises AdapterError.
    """
    expected = set(get_peft_model_state_dict(adapted, adapter_name=name))
    found = set(_tensors(directory / WEIGHTS))
    base = adapted.get_base_model()
    along = {id(layer) for layer in (base.get_input_embeddings(), base.get_output_embeddings())}
    ends = {f"{PREFIX}{path}.weight" for path, module in base.named_modules() if id(module) in along}
    for what, names in (("does not hold", expected - found), ("holds", found - expected - ends)):
        if names:
            than = "which its configuration asks for" if what != "holds" else "which its configuration does not ask for"
            raise AdapterError(
                f"the adapter in {directory} {what} {min(names)}, {than}; its files belong to different adapters"
            )


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model
