"""Write a 4-bit model to a directory, whole or not at all."""

import json
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quatro.format.errors import CheckpointError
from quatro.format.spec import QuantSpec
from quatro.integrations import bitsandbytes
from quatro.integrations.config import stated_dtype
from quatro.integrations.files import whole_directory
from quatro.integrations.quantizer import QuatroHfQuantizer
from quatro.nn.experts import Experts4bit
from quatro.nn.linear import Linear4bit


def save(
    model: PreTrainedModel, directory: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, overwrite: bool = False
) -> None:
    """Save a quantized model (and its tokenizer) so that `quatro.load` reads it back to the bit.

    nf4 and fp4 are written in bitsandbytes' layout, which plain transformers with bitsandbytes reads too; what that cannot hold in
    quatro's own, which from_pretrained reads after `import quatro`.
    Raises CheckpointError for a model that is not quantized or a directory in use, MachineError when the disk fails.
    """
    if not isinstance(getattr(model, "hf_quantizer", None), QuatroHfQuantizer):
        raise CheckpointError(f"{type(model).__name__} is not a 4-bit model; load it with quatro.load or a QuatroConfig first")
    spec = _shared_spec(model)
    with whole_directory(directory, overwrite) as staging:
        if spec is None:
            model.save_pretrained(staging)
        else:
            _save_as_bitsandbytes(model, spec, staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)


def _shared_spec(model: PreTrainedModel) -> QuantSpec | None:
    """What all 4-bit parts have in common where bitsandbytes' layout holds it, else None."""
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    specs = {layer.spec for layer in layers}
    if (
        any(isinstance(module, Experts4bit) for module in model.modules())
        or len(specs) != 1
        or not bitsandbytes.holds(layers[0].spec)
    ):
        return None
    return layers[0].spec


def _save_as_bitsandbytes(model: PreTrainedModel, spec: QuantSpec, directory: Path) -> None:
    dtype = stated_dtype(model.config) or torch.float32
    model.hf_quantizer.layout = partial(bitsandbytes.to_bitsandbytes, dtype=dtype)
    try:
        model.save_pretrained(directory)
    finally:
        model.hf_quantizer.layout = None
    file = directory / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    dense = list(model.hf_quantizer.dense_layers)
    settings["quantization_config"] = bitsandbytes.quantization_config(spec, dtype, dense)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
