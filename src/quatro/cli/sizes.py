"""What a 4-bit model weighs, in words, numbers and a line."""

from typing import TYPE_CHECKING, Any

from quatro.cli.amounts import bytes_text, count_text

if TYPE_CHECKING:
    from torch import nn

    from quatro.integrations.summary import ModelSummary


def size_data(summary: "ModelSummary") -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "parameters": summary.parameters,
        "parameters_4bit": summary.in_4bit,
        "share_4bit": summary.share_in_4bit,
        "bits_per_weight": summary.bits_per_weight,
        "bytes_16bit": summary.bytes_16bit,
        "bytes": summary.bytes,
    }


def size_line(summary: "ModelSummary") -> str:
    """The sentence that says it all."""
    return (
        f"{count_text(summary.parameters)} parameters, {100 * summary.share_in_4bit:.0f} % of them in 4 bits "
        f"({summary.bits_per_weight:.2f} bits each, scales included): "
        f"{bytes_text(summary.bytes_16bit)} in 16 bits became {bytes_text(summary.bytes)}"
    )


def dense_parts(model: "nn.Module") -> list[tuple[str, int]]:
    """(name, parameters) of what is not in 4 bits, the largest first; like layers are one: model.layers.*.input_layernorm."""
    from quatro.nn import Linear4bit

    codes = {id(module.weight) for module in model.modules() if isinstance(module, Linear4bit)}
    counts: dict[str, int] = {}
    for name, tensor in model.named_parameters():
        if id(tensor) not in codes:
            kind = _kind(name)
            counts[kind] = counts.get(kind, 0) + tensor.numel()
    return sorted(counts.items(), key=lambda item: -item[1])


def _kind(name: str) -> str:
    parts = ["*" if part.isdigit() else part for part in name.removesuffix(".weight").split(".")]
    return ".".join(parts)
