"""Models of which a part stays on the disk: said when they are loaded, and adapted like others."""

import logging

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

logger = logging.getLogger("quatro")


def say_what_is_on_disk(model: PreTrainedModel) -> None:
    """One warning, if a device_map left modules there: each is read again at every use."""
    places = getattr(model, "hf_device_map", {})
    away = [name for name, place in places.items() if place == "disk"]
    if away:
        logger.warning(
            "%d of %d parts of the model stay on the disk and are read again at every use, which is slow: %s",
            len(away), len(places), ", ".join(away[:4]) + (", ..." if len(away) > 4 else ""),
        )  # fmt: skip


def bring_adapters_into_memory(model: PeftModel) -> None:
    """Give a new adapter's factors memory where PEFT made them without any, as it does beside weights that are on the disk.

    They get the values that PEFT's own initialization gives. Call it after get_peft_model, before training.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name in list(layer.lora_A):
                _bring(layer, name)


def _bring(layer: LoraLayer, name: str) -> None:
    factors: list[nn.Module] = [layer.lora_A[name], layer.lora_B[name]]
    if any(parameter.is_meta for factor in factors for parameter in factor.parameters()):
        for factor in factors:
            factor.to_empty(device="cpu")
        layer.reset_lora_parameters(name, True)
