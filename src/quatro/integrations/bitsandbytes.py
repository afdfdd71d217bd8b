"""bitsandbytes' 4-bit checkpoints, both ways, without bitsandbytes.

A linear layer P of n weights is, in safetensors: P.weight uint8 ((n + 1) / 2, 1), two codes a byte, or the same bytes under another
dtype (bnb_4bit_quant_storage); P.weight.absmax (blocks,) float32, or uint8 where scales are nested; P.weight.quant_map (16,); nested only:
P.weight.nested_absmax (groups,), P.weight.nested_quant_map (256,); P.weight.quant_state.bitsandbytes__nf4 (or __fp4): the bytes of a JSON
object. Source: bitsandbytes 0.43 to 0.50, functional.QuantState.as_dict.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quatro.format.codebooks import code_table
from quatro.format.dynamic_map import signed_dynamic_map
from quatro.format.errors import CheckpointError
from quatro.format.layout import GROUP, block_count, rows_hold_whole_blocks
from quatro.format.spec import QuantSpec
from quatro.integrations.checkpoint import ComputedTensor, LazyTensor
from quatro.nn.linear import Linear4bit

QUANT_METHOD = "bitsandbytes"
STATE = ".weight.quant_state.bitsandbytes__"
QUANT_TYPES = ("nf4", "fp4")


@dataclass(frozen=True)
class StoredLayer:
    """One linear layer as it is stored: what its JSON says, checked."""

    name: str
    spec: QuantSpec
    shape: tuple[int, int]
    nested_offset: float | None


def holds(spec: QuantSpec) -> bool:
    """Whether this layout can say what a spec says: tables of quatro's own and offsets have no place in it."""
    return spec.quant_type in QUANT_TYPES and spec.table is None and spec.symmetric


def from_bitsandbytes(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], QuantSpec]:
    """The same tensors under the names and in the shapes of Linear4bit, and the one spec of all layers.

    Raises CheckpointError, by the layer's name, for what Linear4bit cannot hold or what contradicts itself.
    """
    layers = [_layer(name, tensors) for name in tensors if STATE in name]
    if not layers:
        raise CheckpointError(
            "the checkpoint says it is in bitsandbytes' 4 bits, but holds no layer in them; download it again"
        )
    _check_one_spec(layers)
    mine = {name for layer in layers for name in tensors if name.startswith(f"{layer.name}.weight")}
    found = {name: tensor for name, tensor in tensors.items() if name not in mine}
    for layer in layers:
        found |= _parts(layer, tensors)
    return found, layers[0].spec


def to_bitsandbytes(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's state dict in this layout. dtype: of the weights before they were quantized, which the layout keeps."""
    found = {name: _as_it_came(tensor, dtype) for name, tensor in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, Linear4bit):
            for part in ("weight", "absmax", "nested_absmax", "nested_offset"):
                found.pop(f"{name}.{part}", None)
            found |= {f"{name}.weight{part}": tensor for part, tensor in _stored(layer, dtype).items()}
    return found


def quantization_config(spec: QuantSpec, dtype: torch.dtype, dense_layers: list[str]) -> dict[str, Any]:
    """What config.json says of such a checkpoint."""
    return {
        "quant_method": QUANT_METHOD,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": spec.quant_type,
        "bnb_4bit_use_double_quant": spec.double_quant,
        "bnb_4bit_compute_dtype": _dtype_name(dtype),
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": dense_layers,
    }


def _as_it_came(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Norms and biases are widened when a model is loaded; they go back to the checkpoint's dtype unless that loses something."""
    narrow = tensor.to(dtype) if tensor.dtype == torch.float32 else tensor
    return narrow if torch.equal(narrow.float(), tensor.float()) else tensor


def _stored(layer: Linear4bit, dtype: torch.dtype) -> dict[str, Tensor]:
    spec, shape = layer.spec, [layer.out_features, layer.in_features]
    state = {"quant_type": spec.quant_type, "blocksize": spec.block_size, "dtype": _dtype_name(dtype), "shape": shape}
    parts = {
        "": layer.weight.detach().reshape(-1, 1),
        ".absmax": layer.absmax.flatten(),
        ".quant_map": _quant_map(spec.quant_type),
    }
    if layer.nested_absmax is not None and layer.nested_offset is not None:
        state |= {"nested_blocksize": GROUP, "nested_dtype": "float32", "nested_offset": layer.nested_offset.item()}
        parts |= {".nested_absmax": layer.nested_absmax, ".nested_quant_map": torch.tensor(signed_dynamic_map())}
    parts[f".quant_state.bitsandbytes__{spec.quant_type}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return parts


def _layer(state_name: str, tensors: Mapping[str, LazyTensor]) -> StoredLayer:
    name, _, kind = state_name.partition(STATE)
    state = _state(name, tensors[state_name])
    nested = f"{name}.weight.nested_absmax" in tensors
    try:
        out_features, in_features = state["shape"]
        offset = float(state["nested_offset"]) if nested else None
        spec = QuantSpec(kind, state["blocksize"], nested)
        same = state["quant_type"] == kind and (not nested or state["nested_blocksize"] == GROUP)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} is stored in a way that quatro cannot hold: {error}") from error
    if not same or in_features % 2:
        raise CheckpointError(
            f"{name} is stored in a way that quatro cannot hold: {json.dumps(state)}; it takes nf4 and fp4, nested scales in groups of "
            f"{GROUP}, and an even number of inputs"
        )
    _check_maps(name, kind, nested, tensors)
    return StoredLayer(name, spec, (out_features, in_features), offset)


def _state(name: str, tensor: LazyTensor) -> dict[str, Any]:
    try:
        found = json.loads(bytes(tensor.read().view(torch.uint8).flatten().tolist()).decode())
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the quant_state of {name} is not readable JSON: {error}; download the checkpoint again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"the quant_state of {name} is no object; download the checkpoint again")
    return found


def _check_maps(name: str, kind: str, nested: bool, tensors: Mapping[str, LazyTensor]) -> None:
    """The tables that a checkpoint brings must be the ones that its names stand for: quatro computes with those."""
    expected = {"quant_map": _quant_map(kind)}
    if nested:
        expected["nested_quant_map"] = torch.tensor(signed_dynamic_map())
    for part, table in expected.items():
        stored = tensors.get(f"{name}.weight.{part}")
        if stored is None or not torch.equal(stored.read().flatten(), table):
            raise CheckpointError(
                f"the {part} of {name} is missing or not bitsandbytes' own; quatro reads its tables of {', '.join(QUANT_TYPES)}"
            )


def _check_one_spec(layers: list[StoredLayer]) -> None:
    for layer in layers:
        if layer.spec != layers[0].spec:
            raise CheckpointError(
                f"{layers[0].name} is stored as {layers[0].spec} and {layer.name} as {layer.spec}; quatro loads checkpoints whose "
                "layers are all stored alike"
            )


def _parts(layer: StoredLayer, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    out_features, in_features = layer.shape
    blocks, block_size = block_count(out_features * in_features, layer.spec.block_size), layer.spec.block_size
    aligned = rows_hold_whole_blocks(in_features, block_size)
    scales = (out_features, in_features // block_size) if aligned else (blocks,)
    stored = f"{layer.name}.weight"
    found = {
        stored: _bytes(stored, tensors, (out_features, in_features // 2)),
        f"{layer.name}.absmax": _reshaped(f"{stored}.absmax", tensors, scales),
    }
    if layer.nested_offset is not None:
        offset = f"{layer.name}.nested_offset"
        found[f"{layer.name}.nested_absmax"] = tensors[f"{stored}.nested_absmax"]
        found[offset] = ComputedTensor(offset, "F32", (), lambda: torch.tensor(layer.nested_offset, dtype=torch.float32))
    return found


def _bytes(name: str, tensors: Mapping[str, LazyTensor], shape: tuple[int, int]) -> LazyTensor:
    stored = _present(name, tensors)
    return ComputedTensor(name, "U8", shape, lambda: _viewed(stored.read().flatten().view(torch.uint8), name, shape))


def _reshaped(name: str, tensors: Mapping[str, LazyTensor], shape: tuple[int, ...]) -> LazyTensor:
    stored = _present(name, tensors)
    return ComputedTensor(name, stored.dtype, shape, lambda: _viewed(stored.read(), name, shape))


def _present(name: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
    if name not in tensors:
        raise CheckpointError(f"{name} is missing beside its quant_state; download the checkpoint again")
    return tensors[name]


def _viewed(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if tensor.numel() != torch.Size(shape).numel():
        raise CheckpointError(f"{name} has {tensor.numel()} elements where its quant_state needs {torch.Size(shape).numel()}")
    return tensor.reshape(shape)


def _quant_map(quant_type: str) -> Tensor:
    """The table as bitsandbytes writes it: FP4's second zero has no sign."""
    return torch.tensor(code_table(quant_type).values) + 0.0


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
