"""A base and an adapter become one dense checkpoint, a tensor at a time: neither model is ever whole in memory.

The base is a skeleton on the meta device with PEFT's own adapter on it. One after another a layer gets its weight, PEFT merges it, the
sum is written, and the layer is empty again; so whatever PEFT can express (rsLoRA, DoRA, rank patterns, biases, Conv1D) is PEFT's sum.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from quatro.format.errors import AdapterError, CheckpointError, InputError
from quatro.integrations import bitsandbytes
from quatro.integrations.adapters import adapter_settings, checked_adapter, with_adapter
from quatro.integrations.base import CARRIED, check_base, described, remembered_quantization, source_fingerprint
from quatro.integrations.checkpoint import INDEX, SINGLE, Checkpoint, LazyTensor
from quatro.integrations.config import QUANT_METHOD, QuatroConfig, stated_dtype
from quatro.integrations.experts import is_fused
from quatro.integrations.files import whole_directory
from quatro.integrations.layers import replace_linears
from quatro.integrations.letters import configuration_of
from quatro.integrations.loading import model_class
from quatro.integrations.pages import give_back
from quatro.integrations.sources import has_safetensors, quantization_of, source_directory
from quatro.integrations.streaming import Progress, nbytes
from quatro.nn.linear import Linear4bit, is_conv1d
from quatro.tensor.quantized import QuantizedTensor, quantize_with

SHARD = 1 << 27
"""Bytes of the tensors in a file, where none is larger alone: what is being collected is in memory."""
MODES = ("dense", "4bit")
ONTO = ("dequantized", "original")
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt", "*.model")


def merge_dense(
    base: str | Path,
    adapter: str | Path,
    directory: str | Path,
    onto: str = "dequantized",
    config: QuatroConfig | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda read, all: None,
) -> None:
    """Write a dense checkpoint of the base with the adapter's changes in its weights, which transformers loads without quatro.

    base: a directory or hub id, dense or in 4 bits. onto: "dequantized" adds the change to what the 4-bit weights stand for, which is
        what the adapter was trained on (config: the quantization of a dense base, else the one that the adapter remembers, else nf4); "original" to the base's
        own weights.
    force: merge although the adapter was made for other weights of the same architecture.
    progress: told the bytes that were merged so far and all there are.
    Raises CheckpointError, AdapterError (an adapter that cannot be merged, by name), MachineError when the disk fails.
    """
    source, brought = source_directory(base), checked_adapter(adapter)
    merged = _Merge(source, brought, onto, config or remembered_quantization(brought), force)
    with whole_directory(directory, overwrite) as staging:
        _write_shards(merged.results(progress), staging)
        _write_settings(source, brought, staging)


def merge(base: str | Path, adapter: str | Path, directory: str | Path, mode: str = "dense", **options: Any) -> Any:
    """Merge an adapter into its base and write the result.

    mode: "dense", see `merge_dense`, or "4bit", see `integrations.merging_4bit.merge_4bit` and its report; they take the options.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not possible; choose dense or 4bit")
    if mode == "dense":
        return merge_dense(base, adapter, directory, **options)
    from quatro.integrations.merging_4bit import merge_4bit

    return merge_4bit(base, adapter, directory, **options)


class _Merge:
    """The base's tensors by name, and the skeleton that says what becomes of each."""

    def __init__(self, source: Path, adapter: Path, onto: str, config: QuatroConfig, force: bool) -> None:
        if onto not in ONTO:
            raise CheckpointError(f"a merge is onto {' or '.join(ONTO)} weights, not {onto!r}")
        if not has_safetensors(source):
            raise CheckpointError(f"{source} has no safetensors; load and save it once with transformers")
        self.method, self.config = quantization_of(source), config
        self.tensors: dict[str, LazyTensor] = dict(Checkpoint(source))
        if self.method == bitsandbytes.QUANT_METHOD:
            self.tensors, spec = bitsandbytes.from_bitsandbytes(self.tensors)
            self.config = QuatroConfig(spec.quant_type, spec.block_size, spec.double_quant)
        if self.method == QUANT_METHOD:
            self.config = QuatroConfig(**json.loads((source / "config.json").read_text())["quantization_config"])
        if self.method and onto == "original":
            raise CheckpointError(
                f"{source} is in 4 bits: its original weights are not there; name the 16-bit base, or leave --onto out"
            )
        skeleton = _skeleton(source)
        self.dtype = stated_dtype(skeleton.config) or torch.float32
        self.in_4bit = self._layers_in_4bit(skeleton) if onto == "dequantized" else set()
        quantization = self.config if self.method or onto == "dequantized" else None
        fingerprint = source_fingerprint(source, skeleton.config, self.method is not None)
        check_base(adapter, described(skeleton.config, str(source), quantization, fingerprint), force, onto == "original")
        _refuse_what_files_cannot_show(skeleton, adapter, onto, in_4bit=self.method is not None)
        _stand_in(skeleton, adapter_settings(adapter).get("modules_to_save") or [])
        self.adapted = with_adapter(skeleton, adapter)
        self.layers = _adapted_layers(self.adapted)
        self.replaced = _modules_to_save(self.adapted)
        self._check_reachable()

    def _layers_in_4bit(self, skeleton: PreTrainedModel) -> set[str]:
        """Names of the layers whose weights are 4-bit ones: as stored, or as the configuration would have them."""
        if self.method:
            return {name.removesuffix(".absmax") for name in self.tensors if name.endswith(".absmax")}
        twin = type(skeleton)
        with torch.device("meta"):
            model = twin(skeleton.config)
        replace_linears(model, self.config)
        return {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}

    def _check_reachable(self) -> None:
        for name in [*self.layers, *self.replaced]:
            if f"{name}.weight" not in self.tensors:
                raise AdapterError(
                    f"the adapter changes {name}, whose weight the base's files hold under another name or inside a fused tensor; such a "
                    "layer cannot be merged file by file"
                )

    def results(self, progress: Progress) -> Iterator[tuple[str, Tensor]]:
        """The merged checkpoint's tensors by name, each made when it is asked for."""
        done, everything = 0, sum(map(nbytes, self.tensors.values()))
        for name, tensor in self.tensors.items():
            done += nbytes(tensor)
            owner, _, part = name.rpartition(".")
            if part in ("absmax", "nested_absmax", "nested_offset", "zeros") and owner in self.in_4bit:
                continue
            for made, result in self._made(owner, part, name, tensor):
                changed = owner in self.in_4bit or owner in self.layers or owner in self.replaced
                yield made, result.to(self.dtype) if changed and result.is_floating_point() else result
            give_back()
            progress(done, everything)

    def _made(self, owner: str, part: str, name: str, tensor: LazyTensor) -> Iterator[tuple[str, Tensor]]:
        if owner in self.replaced:
            yield name, self.replaced[owner].get_parameter(part).detach()
            return
        weight = self._dense(owner, name, tensor) if part == "weight" else tensor.read()
        if owner in self.layers and part == "weight":
            yield from self._merged(owner, name, weight)
        elif owner not in self.layers:
            yield name, weight

    def _dense(self, owner: str, name: str, tensor: LazyTensor) -> Tensor:
        """What the base's weight is, in the orientation it is stored in."""
        if owner not in self.in_4bit:
            return tensor.read()
        module = self.adapted.get_base_model().get_submodule(owner)
        transposed = is_conv1d(getattr(module, "base_layer", module))
        if self.method:
            found = self._stored(owner, tensor).dequantize()
        else:
            dense = tensor.read()
            found = quantize_with(dense.T.contiguous() if transposed else dense, self.config.spec, name).dequantize(
                torch.float32
            )
        return found.T.contiguous() if transposed else found

    def _stored(self, owner: str, codes: LazyTensor) -> QuantizedTensor:
        parts = {part: self.tensors.get(f"{owner}.{part}") for part in ("absmax", "nested_absmax", "nested_offset", "zeros")}
        absmax, nested, offset, zeros = (None if part is None else part.read() for part in parts.values())
        shape = torch.Size((codes.shape[0], codes.shape[1] * 2))
        if absmax is None:
            raise CheckpointError(f"{owner} has codes but no absmax; the checkpoint is not whole")
        flat = None if zeros is None else zeros.flatten()
        return QuantizedTensor(codes.read(), absmax.flatten(), nested, offset, flat, shape, torch.float32, self.config.spec)

    def _merged(self, owner: str, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The layer's parameters with the adapter's change, by PEFT's own sum in float32."""
        layer: Any = self.layers[owner]
        inner = layer.get_base_layer()
        inner.weight = nn.Parameter(weight.float(), requires_grad=False)
        bias = self.tensors.get(f"{owner}.bias")
        if bias is not None:
            inner.bias = nn.Parameter(bias.read().float(), requires_grad=False)
        layer.merge(safe_merge=True)
        yield name, inner.weight.detach()
        if bias is not None:
            yield f"{owner}.bias", inner.bias.detach()
        inner.weight = _nothing(inner.weight.shape)


def _skeleton(source: Path) -> PreTrainedModel:
    config = configuration_of(source)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        found: PreTrainedModel = model_class(config)(config)
    return found


def _refuse_what_files_cannot_show(skeleton: PreTrainedModel, adapter: Path, onto: str, in_4bit: bool) -> None:
    """By name, what a merge file by file would get wrong."""
    settings = adapter_settings(adapter)
    initial = str(settings.get("init_lora_weights", True)).lower()
    whole = settings.get("modules_to_save") or []
    if initial.startswith(CHANGE_THE_BASE):
        raise AdapterError(
            f"the adapter was begun with {initial}, which changes the base as well; convert it to plain LoRA with PEFT first"
        )
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        raise AdapterError(
            "the adapter trains biases, which a merge file by file does not carry over; merge it with PEFT's merge_and_unload"
        )
    if whole and getattr(skeleton.config, "tie_word_embeddings", False):
        raise AdapterError(
            f"the adapter brings {', '.join(whole)} whole, and this base's embedding and head are one tensor; which is meant cannot be said in one file"
        )
    if onto == "dequantized" and any(is_fused(module) for module in skeleton.modules()):
        where = "name its 16-bit checkpoint and say onto original" if in_4bit else "say onto original"
        raise CheckpointError(
            f"this base has fused experts, which a merge onto dequantized weights does not reach; keep the adapter beside the base, or {where}"
        )


def _stand_in(skeleton: PreTrainedModel, real: list[str]) -> None:
    """Parameters that have a shape and a place but no memory: beside meta ones PEFT would leave an adapter without numbers.

    real: names of modules that an adapter replaces, which need memory to be copied into.
    """
    for name, module in skeleton.named_modules():
        for part, parameter in list(module.named_parameters(recurse=False)):
            kept = name.rpartition(".")[2] in real or any(name.endswith(f".{end}") for end in real)
            made = nn.Parameter(torch.zeros(parameter.shape), requires_grad=False) if kept else _nothing(parameter.shape)
            setattr(module, part, made)


def _nothing(shape: torch.Size) -> nn.Parameter:
    """Zeros of a shape on one number's memory."""
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def _adapted_layers(model: PeftModel) -> dict[str, nn.Module]:
    """Layers with factors by the base's name for them. Raises AdapterError for kinds that cannot be merged."""
    found: dict[str, nn.Module] = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            if not hasattr(module.get_base_layer(), "weight") or not hasattr(module, "merge"):
                raise AdapterError(
                    f"{name} is adapted by {type(module).__name__}, which changes no weight that could be merged"
                )
            found[name] = module
    return found


def _modules_to_save(model: PeftModel) -> dict[str, nn.Module]:
    """Modules that were trained whole, by the base's name for them."""
    return {
        name: module.modules_to_save[model.active_adapter]
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper) and hasattr(module, "modules_to_save")
    }


def _write_shards(tensors: Iterator[tuple[str, Tensor]], directory: Path) -> None:
    """Files of about SHARD bytes and their index."""
    shard: dict[str, Tensor] = {}
    placed: dict[str, int] = {}
    count = size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD:
            _write(shard, directory, count)
            shard, size, count = {}, 0, count + 1
        shard[name], placed[name] = tensor.contiguous(), count
        size += tensor.nbytes
    _write(shard, directory, count)
    names = [f"model-{index + 1:05}-of-{count + 1:05}.safetensors" for index in range(count + 1)]
    for index, name in enumerate(names):
        (directory / f"{index}.partial").rename(directory / (name if count else SINGLE))
    if count:
        weight_map = {name: names[index] for name, index in placed.items()}
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")


def _write(shard: dict[str, Tensor], directory: Path, index: int) -> None:
    save_file(shard, directory / f"{index}.partial", {"format": "pt"})


def _write_settings(source: Path, adapter: Path, directory: Path) -> None:
    """The base's configuration without a word of quantization; the adapter's tokenizer and template if it brings them, else the base's."""
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for key in ("quantization_config", CARRIED):
        settings.pop(key, None)
    (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if (source / GENERATION).is_file():
        shutil.copy(source / GENERATION, directory)
    speaker = adapter if (adapter / TOKENIZER).is_file() else source
    for pattern in TOKENIZER_FILES:
        for file in speaker.glob(pattern):
            shutil.copy(file, directory)
