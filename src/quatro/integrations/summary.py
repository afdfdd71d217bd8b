"""What a loaded model is made of: weights in 4 bits, what stayed dense and why, bytes."""

import resource
import sys
from dataclasses import dataclass

from torch import nn

from quatro.nn.experts import Experts4bit
from quatro.nn.linear import Linear4bit
from quatro.tensor.quantized import QuantizedTensor

LEAST_LARGE, LARGE_SHARE = 1 << 16, 0.01
"""A matrix is large from so many weights and this share of the model's."""
SHOWN = 4


@dataclass(frozen=True)
class ModelSummary:
    """parameters and in_4bit count true weights (not packed bytes); bytes is what the model takes, bytes_16bit what it would in bf16."""

    parameters: int
    in_4bit: int
    bytes: int
    bytes_16bit: int
    bits_per_weight: float
    dense_layers: dict[str, str]

    @property
    def share_in_4bit(self) -> float:
        """0 to 1."""
        return self.in_4bit / self.parameters


def summarize(model: nn.Module) -> ModelSummary:
    """Count a model's weights and bytes; tied tensors once."""
    tensors = [tensor for module in model.modules() for tensor in quantized_tensors(module)]
    codes = {id(parameter) for module in model.modules() for parameter in _codes(module)}
    in_4bit = sum(tensor.shape.numel() for tensor in tensors)
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in codes)
    bytes_4bit = sum(tensor.nbytes for tensor in tensors)
    stored = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    dense = getattr(getattr(model, "hf_quantizer", None), "dense_layers", {})
    parameters = in_4bit + others
    return ModelSummary(parameters, in_4bit, stored, 2 * parameters, 8 * bytes_4bit / max(in_4bit, 1), dict(dense))


def quantized_tensors(module: nn.Module) -> list[QuantizedTensor]:
    """The matrices that one module, without its children, holds in 4 bits."""
    if isinstance(module, Linear4bit):
        return [module.quantized]
    if isinstance(module, Experts4bit):
        return [module.quantized(name, expert) for name in module.projections for expert in range(module.num_experts)]
    return []


def _codes(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, Experts4bit):
        return [getattr(module, name) for name in module.projections]
    return [module.weight] if isinstance(module, Linear4bit) else []


def left_behind(model: nn.Module) -> dict[str, int]:
    """{name: weights} of large float matrices that nobody decided to leave dense, and no embedding or convolution is."""
    decided = set(getattr(getattr(model, "hf_quantizer", None), "dense_layers", {}))
    large = max(LEAST_LARGE, LARGE_SHARE * summarize(model).parameters)
    kinds = dict(model.named_modules())
    found = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        expected = owner in decided or isinstance(kinds[owner], (nn.Embedding, nn.modules.conv._ConvNd))
        if parameter.is_floating_point() and parameter.dim() > 1 and parameter.numel() >= large and not expected:
            found[name] = parameter.numel()
    return found


def one_line(model: nn.Module) -> str:
    """What a model that was just loaded is made of, and the most memory that this process has had."""
    summary = summarize(model)
    dense = ", ".join(f"{name} ({reason})" for name, reason in list(summary.dense_layers.items())[:SHOWN])
    more = f" and {len(summary.dense_layers) - SHOWN} more" if len(summary.dense_layers) > SHOWN else ""
    return (
        f"{summary.parameters / 1e6:,.1f} million parameters, {summary.share_in_4bit:.1%} in 4 bits; "
        f"dense: embeddings, norms{', ' + dense if dense else ''}{more}; {summary.bytes / 1e6:,.0f} MB, "
        f"peak of the process {_peak_resident() / 1e6:,.0f} MB"
    )


def _peak_resident() -> int:
    """Bytes, files that are mapped included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
