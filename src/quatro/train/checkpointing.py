"""What does a checkpointed layer keep until its backward pass? The products with its weights; everything else is computed again.

Products are most of a layer's time and a part of its memory: norms, activations, residuals and gates need no second product.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import TrainerCallback, TrainingArguments

from quatro.nn import lora  # noqa: F401, it registers torch.ops.quatro


class KeepProducts(TrainerCallback):
    """Where a run checkpoints activations and says no more about it, `keep_products`."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """After Trainer has enabled checkpointing its own way."""
        name = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(args, name))
        if getattr(args, name) and not getattr(args, f"{name}_kwargs"):
            keep_products(model)


def keep_products(model: nn.Module) -> None:
    """Checkpoint every layer of a transformers or PEFT model, keeping products with its 4-bit weights and its attention's result."""
    checkpoint_layers(model, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy))


def checkpoint_layers(model: nn.Module, **options: Any) -> None:
    """Checkpoint every layer by the name that this version of transformers has for it. options: torch.utils.checkpoint's."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)


def _policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


_aten = torch.ops.aten
_PRODUCTS = {
    torch.ops.quatro.linear.default,
    torch.ops.quatro.lora_linear.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}  # fmt: skip
