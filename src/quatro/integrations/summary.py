"""What a loaded model is made of: weights in 4 bits, what stayed dense and why, bytes."""

from dataclasses import dataclass

from torch import nn

from quatro.nn.linear import Linear4bit


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
    quantized = [module for module in model.modules() if isinstance(module, Linear4bit)]
    codes = {id(layer.weight) for layer in quantized}
    in_4bit = sum(layer.in_features * layer.out_features for layer in quantized)
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in codes)
    bytes_4bit = sum(layer.quantized.nbytes for layer in quantized)
    stored = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    dense = getattr(getattr(model, "hf_quantizer", None), "dense_layers", {})
    parameters = in_4bit + others
    return ModelSummary(parameters, in_4bit, stored, 2 * parameters, 8 * bytes_4bit / max(in_4bit, 1), dict(dense))
