"""PEFT's LoRA layers on 4-bit bases, with both products in one step wherever that is what PEFT would compute."""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from quatro.nn.linear import Linear4bit
from quatro.nn.lora import lora_linear

ADAPTER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class FusedLoraLinear(lora.Linear):
    """A lora.Linear in another's place: its very parameters, adapters, settings and hooks, and so its state-dict keys.

    Its forward is one step for one active plain adapter on a Linear4bit; whatever else PEFT offers (several adapters,
    mixed batches, merged or disabled ones, DoRA and other variants, biases, hooks on the parts) is PEFT's own forward.
    """

    def __init__(self, layer: lora.Linear) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(layer))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (..., in) -> (..., out), as PEFT's: the base layer's result and dtype, with the adapter's product added."""
        adapter = None if args or kwargs else self._plain_adapter(x)
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        dropout = self.lora_dropout[adapter]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return lora_linear(x, self.base_layer, a, b, self.scaling[adapter], share)

    def _plain_adapter(self, x: Tensor) -> str | None:
        """The active adapter, where there is one and its product on x is y + scaling * B(A(dropout(x))) with nothing between."""
        if self.disable_adapters or self.merged:
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or active[0] in self.lora_variant or not isinstance(self.scaling[active[0]], int | float):
            return None
        name = active[0]
        a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        plain = (
            _is_plain(self.base_layer, Linear4bit)
            and _is_plain_factor(a)
            and _is_plain_factor(b)
            and (_is_plain(dropout, nn.Identity) or (_is_plain(dropout, nn.Dropout) and dropout.p < 1))
            and a.weight.dtype == b.weight.dtype
            and (self.cast_input_dtype_enabled or x.dtype == a.weight.dtype)
        )
        return name if plain else None


def fuse_adapters(model: nn.Module) -> int:
    """Put a FusedLoraLinear in the place of every lora.Linear on a 4-bit base; how many were put in place.

    model: what get_peft_model or PeftModel.from_pretrained gave. A second call finds none left.
    """
    fused: dict[nn.Module, FusedLoraLinear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not _is_plain(module, lora.Linear, hooks_allowed=True) or type(module.base_layer) is not Linear4bit:
            continue
        if module not in fused:
            fused[module] = FusedLoraLinear(module)
        model.set_submodule(name, fused[module])
    return len(fused)


def _is_plain_factor(factor: nn.Module) -> bool:
    """Whether A or B is a product with an ordinary weight: not sharded, not 8-bit, no bias."""
    if not _is_plain(factor, nn.Linear):
        return False
    return type(factor.weight) is nn.Parameter and factor.weight.dtype in ADAPTER_DTYPES and factor.bias is None


def _is_plain(module: nn.Module, kind: type[nn.Module], hooks_allowed: bool = False) -> bool:
    """Whether calling a module is the forward of that very class: no subclass, no forward of its own, and no hooks."""
    if type(module) is not kind or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return hooks_allowed or not any(hooks)
