"""Write a 4-bit model to a directory, whole or not at all."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quatro.format.errors import CheckpointError
from quatro.integrations.files import whole_directory
from quatro.integrations.quantizer import QuatroHfQuantizer


def save(
    model: PreTrainedModel, directory: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, overwrite: bool = False
) -> None:
    """Save a quantized model (and its tokenizer) so that `quatro.load` or from_pretrained reads it back to the bit.

    Raises CheckpointError for a model that is not quantized or a directory in use, MachineError when the disk fails.
    """
    if not isinstance(getattr(model, "hf_quantizer", None), QuatroHfQuantizer):
        raise CheckpointError(f"{type(model).__name__} is not a 4-bit model; load it with quatro.load or a QuatroConfig first")
    with whole_directory(directory, overwrite) as staging:
        model.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
