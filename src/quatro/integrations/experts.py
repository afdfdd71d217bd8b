"""transformers' fused experts, and Experts4bit in their place: public by the interface that all of them go through."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from quatro.integrations.config import QuatroConfig
from quatro.nn.experts import Experts4bit

UP, DOWN = ("gate_up_proj", "up_proj"), "down_proj"
MARKS = ("num_experts", "has_gate", "has_bias", "is_transposed")
"""What transformers.integrations.use_experts_implementation gives to every class of fused experts."""


def replace_experts(model: PreTrainedModel, config: QuatroConfig) -> dict[str, str]:
    """Put empty Experts4bit on the meta device where a skeleton has fused experts; returns {name: reason} of those that stay dense."""
    dense: dict[str, str] = {}
    for name, module in list(model.named_modules()):
        if not is_fused(module):
            continue
        reason = _why_dense(name, module, config.skip_modules or [])
        if reason is None:
            model.set_submodule(name, _empty(module, config))
            model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(_take_peft_wrappers)
        else:
            dense[name] = reason
    return dense


def is_fused(module: nn.Module) -> bool:
    """Whether a module holds the matrices of many experts in 3-D parameters that transformers' experts interface multiplies."""
    return all(hasattr(module, mark) for mark in MARKS) and getattr(module, DOWN, torch.empty(0)).dim() == 3


def tell_shapes(model: nn.Module) -> None:
    """Let PEFT's `target_parameters` see the shape that a fused parameter stands for, under the name it reads of sharded ones."""
    for module in model.modules():
        if isinstance(module, Experts4bit):
            for name, (outputs, inputs) in module.projections.items():
                sides = (inputs, outputs) if module.is_transposed else (outputs, inputs)
                module.get_parameter(name).ds_shape = torch.Size((module.num_experts, *sides))


def matrices(stored: Tensor, transposed: bool) -> Tensor:
    """(experts, out, in) of a fused parameter as it is stored."""
    return stored.transpose(1, 2) if transposed else stored


def _take_peft_wrappers(block: nn.Module, args: Any) -> None:
    """Before a block of experts computes: what PEFT has put around them gives way to a wrapper that computes on codes."""
    if any(isinstance(child, Experts4bit) for child in block.children()):
        return
    from quatro.integrations.fused_lora import FusedLoraExperts, fuse_adapters

    if not any(isinstance(child, FusedLoraExperts) for child in block.children()):
        fuse_adapters(block)


def _why_dense(name: str, module: nn.Module, skip: list[str]) -> str | None:
    if not should_convert_module(name, skip):
        return "in skip_modules"
    shapes = [matrices(getattr(module, name), module.is_transposed).shape for name in _projections(module)]
    if getattr(module, "has_post_expert_norm", False):
        return "experts with a norm of their own"
    if any(shape[2] % 2 for shape in shapes):
        return "odd number of inputs"
    return None


def _projections(module: nn.Module) -> tuple[str, str]:
    return UP[0] if module.has_gate else UP[1], DOWN


def _empty(module: nn.Module, config: QuatroConfig) -> Experts4bit:
    names = _projections(module)
    shapes = {name: tuple(matrices(getattr(module, name), module.is_transposed).shape[1:]) for name in names}
    biases = {name: getattr(module, f"{name}_bias") for name in names} if module.has_bias else None
    made = Experts4bit(
        module.num_experts,
        shapes,  # type: ignore[arg-type]
        _gate(module),
        biases,
        config.spec,
        config.compute_dtype,
        config.precision,
        device=torch.device("meta"),
    )
    made.is_transposed = module.is_transposed
    return made


def _gate(module: nn.Module) -> Any:
    """What the model's own experts do between their two products: the module itself, which has given up its parameters."""
    for name in list(dict(module.named_parameters(recurse=False))):
        delattr(module, name)
    return partial(type(module)._apply_gate, module) if module.has_gate else module.act_fn
