"""PEFT's LoRA layers on 4-bit bases, with both products in one step wherever that is what PEFT would compute."""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from quatro.format.errors import AdapterError
from quatro.nn.experts import Experts4bit, Factors
from quatro.nn.linear import Linear4bit
from quatro.nn.lora import lora_linear

MERGE = "weights in 4 bits take no change in place; `quatro merge` and quatro.merge write a merged model"
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

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises AdapterError: codes take no change in place."""
        raise AdapterError(MERGE)

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


class FusedLoraExperts(lora.ParamWrapper):
    """A lora.ParamWrapper on Experts4bit in another's place: only the tokens of an expert are multiplied with its factors.

    PEFT's own forward would add the factors' product to the parameter, which here holds codes.
    """

    def __init__(self, wrapper: lora.ParamWrapper) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(wrapper))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the experts give, with the active adapters' factors on this parameter."""
        active = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.lora_A]
        with self.get_base_layer().changed(self.parameter_name, [self._factors(name) for name in active]):
            result: Tensor = self.base_layer(x, *args, **kwargs)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises AdapterError: codes take no change."""
        raise AdapterError(MERGE)

    def _factors(self, name: str) -> Factors:
        """In PEFT's layout A is (experts * r, in), and B (out, r * experts)."""
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        per_expert = b.reshape(b.shape[0], -1, self.num_experts).permute(2, 0, 1)
        return a.reshape(self.num_experts, -1, a.shape[-1]), per_expert, float(self.scaling[name])


def fuse_adapters(model: nn.Module) -> int:
    """Put a fused layer in the place of every LoRA layer on a 4-bit base; how many were put in place.

    model: what get_peft_model or PeftModel.from_pretrained gave. A second call finds none left.
    """
    fused: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        kind = _fused_kind(module)
        if kind is not None:
            model.set_submodule(name, fused.setdefault(module, kind(module)))
    return len(fused)


def _fused_kind(module: nn.Module) -> Any:
    """The class that stands in a LoRA layer's place, or None."""
    if type(module) is lora.Linear and type(module.base_layer) is Linear4bit and "forward" not in vars(module):
        return FusedLoraLinear
    if type(module) is lora.ParamWrapper and type(module.get_base_layer()) is Experts4bit:
        return FusedLoraExperts
    return None


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
