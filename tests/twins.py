"""What models in 4 bits are compared with and how they are trained here: used by tests of several rooms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from quatro.nn import Linear4bit
from quatro.nn.experts import Experts4bit


def dense_twin(model: nn.Module, directory: Path, kind: Any = AutoModelForCausalLM) -> Any:
    """The dense model of a directory in float32, its matrices those that the 4-bit model stands for."""
    twin = kind.from_pretrained(directory, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            dense = module.dequantize()
            twin.get_submodule(name).weight.data.copy_(dense.T if module.transposed_source else dense)
        if isinstance(module, Experts4bit):
            for projection in module.projections:
                dense = module.dequantize(projection)
                stored = dense.transpose(1, 2) if module.is_transposed else dense
                getattr(twin.get_submodule(name), projection).data.copy_(stored)
    return twin.eval()


def losses_of(model: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 1e-2) -> list[float]:
    """The loss before each of `steps` steps of AdamW on what is trainable, and after the last."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    found = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    with torch.no_grad():
        return [*found, loss().item()]
