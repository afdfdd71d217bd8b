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
        adapter = None if args or kwargs else self._plain_adapter(x.dtype)
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        return lora_linear(x, self.base_layer, *adapter)

    def _plain_adapter(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, float] | None:
        """A, B, scaling and dropout of the one active adapter, or None where PEFT computes more than their product on x."""
        if self.disable_adapters or self.merged or not _is_plain(self.base_layer, Linear4bit):
            return None
        factors = self.lora_A
        active = [name for name in self.active_adapters if name in factors]
        if len(active) != 1 or active[0] in self.lora_variant:
            return None
        name = active[0]
        a, b = _plain_weight(factors[name]), _plain_weight(self.lora_B[name])
        scaling, dropout = self.scaling[name], _plain_dropout(self.lora_dropout[name])
        if a is None or b is None or dropout is None or a.dtype != b.dtype or not isinstance(scaling, int | float):
            return None
        return (a, b, scaling, dropout) if dtype == a.dtype or self.cast_input_dtype_enabled else None


def fuse_adapters(model: nn.Module) -> int:
    """Put a FusedLoraLinear in the place of every lora.Linear on a 4-bit base; how many were put in place.

    model: what get_peft_model or PeftModel.from_pretrained gave. A second call finds none left.
    """
    fused: dict[nn.Module, FusedLoraLinear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is lora.Linear and type(module.base_layer) is Linear4bit and "forward" not in vars(module):
            layer = fused.setdefault(module, FusedLoraLinear(module))
            model.set_submodule(name, layer)
    return len(fused)


def _plain_weight(factor: nn.Module) -> Tensor | None:
    """The weight of A or B, where it is all there is: not sharded, not 8-bit, no bias."""
    if not _is_plain(factor, nn.Linear) or factor.bias is not None:
        return None
    weight: Tensor = factor.weight
    return weight if type(weight) is nn.Parameter and weight.dtype in ADAPTER_DTYPES else None


def _plain_dropout(module: nn.Module) -> float | None:
    """The share that a dropout drops now, below 1; None for another kind of module."""
    if _is_plain(module, nn.Identity):
        return 0.0
    if not _is_plain(module, nn.Dropout) or module.p >= 1:
        return None
    return module.p if module.training else 0.0


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module is the forward of that very class: no subclass, no forward of its own, and no hooks."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) is kind and not hooked and "forward" not in vars(module)
