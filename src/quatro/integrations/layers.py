"""Which layers of a transformers model become 4 bits, and which stay dense and why."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from quatro.integrations.config import QuatroConfig
from quatro.kernels.compute import hidden_dtype
from quatro.nn.dense import DenseEmbedding, DenseLinear
from quatro.nn.linear import Linear4bit, is_conv1d

KEPT = "kept in float32 by its model"
WIDE = (nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.modules.linear.NonDynamicallyQuantizableLinear)
SMALL = 4 << 20
"""Weights of a router; of 512 experts on 8192 hidden values it has as many."""


def replace_linears(model: PreTrainedModel, config: QuatroConfig) -> dict[str, str]:
    """Put empty 4-bit layers on the meta device where a skeleton has linear ones, and 16-bit-safe layers where they stay dense.

    Returns {name: reason} of the linear layers that stay dense.
    """
    head = get_keys_to_not_convert(model)
    own = [*(model._keep_in_fp32_modules or []), *(model._keep_in_fp32_modules_strict or []), *_weights_that_cast(model)]
    dense: dict[str, str] = {}
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Embedding) and type(module) not in (nn.Embedding, DenseEmbedding):
            module.register_forward_hook(_widened)
        if isinstance(module, nn.MultiheadAttention):
            dense[name] = "torch's own attention"
        if type(module) is not nn.Embedding and type(module) is not nn.Linear and not is_conv1d(module):
            continue
        reason = None if type(module) is nn.Embedding else _why_dense(name, module, head, config.skip_modules or [], own)
        if reason is not None:
            dense[name] = reason
        if module not in made:
            made[module] = _instead(module, reason, config)
        model.set_submodule(name, made[module])  # a module under several names stays one
    return dense


def _instead(module: nn.Module, reason: str | None, config: QuatroConfig) -> nn.Module:
    if type(module) is nn.Embedding:
        return DenseEmbedding.from_embedding(module)
    if reason is None:
        return _empty_4bit(module, config)
    if reason == KEPT:
        module.weight.data = module.weight.data.float()
    return DenseLinear.from_linear(module) if type(module) is nn.Linear else module


def widen_norms(model: PreTrainedModel) -> None:
    """Norms, routers and convolutions are float32 whatever the checkpoint's dtype, as hidden states are: the loader reads a parameter in
    the dtype its skeleton has."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and all(parameter.is_floating_point() for parameter in own) and _is_small(module, own):
            for parameter in own:
                parameter.data = parameter.data.float()


def _is_small(module: nn.Module, own: list[nn.Parameter]) -> bool:
    """Whether a module holds vectors only, or is of a model's own kind and small: what it computes with them would round to their dtype.

    torch's MultiheadAttention is wide whatever its size: it multiplies hidden states with its parameters itself.
    """
    if all(parameter.dim() == 1 for parameter in own) or isinstance(module, WIDE):
        return True
    of_torch = isinstance(module, nn.Linear | nn.Embedding) or is_conv1d(module)
    return not of_torch and sum(parameter.numel() for parameter in own) <= SMALL


def in_out_features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of an nn.Linear or a Conv1D."""
    rows, columns = module.weight.shape
    return (rows, columns) if is_conv1d(module) else (columns, rows)


def _weights_that_cast(model: PreTrainedModel) -> list[str]:
    """Layers of T5's family whose block casts hidden states to the dtype of their weight: to codes, if that were in 4 bits."""
    blocks = [
        name
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("DenseActDense", "DenseGatedActDense"))
    ]
    return [f"{name}.wo" for name in blocks if hasattr(model.get_submodule(name), "wo")]


def _widened(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """A model's own kind of embedding, too, begins hidden states in their dtype."""
    return output.to(hidden_dtype(module.weight.dtype, module.weight.device.type))


def _why_dense(name: str, module: nn.Module, head: list[str], skip: list[str], own: list[str]) -> str | None:
    if not should_convert_module(name, head):
        return "output head or tied weight"
    if not should_convert_module(name, own):
        return KEPT
    if not should_convert_module(name, skip):
        return "in skip_modules"
    if in_out_features(module)[0] % 2:
        return "odd number of inputs"
    return None


def _empty_4bit(module: nn.Module, config: QuatroConfig) -> Linear4bit:
    inputs, outputs = in_out_features(module)
    layer = Linear4bit(
        inputs,
        outputs,
        module.bias is not None,
        config.spec,
        config.compute_dtype,
        config.precision,
        device=torch.device("meta"),
    )
    layer.transposed_source = is_conv1d(module)
    return layer
