"""Which base was an adapter made for? A small file beside PEFT's remembers it, and whoever puts the adapter on a base is told."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from quatro.format.errors import AdapterError, CheckpointError
from quatro.integrations.checkpoint import Checkpoint, StoredTensor
from quatro.integrations.config import QuatroConfig
from quatro.integrations.sources import has_safetensors

logger = logging.getLogger("quatro")

RECORD = "quatro_base.json"
CARRIED = "quatro_source"
"""The key of config.json in which a 4-bit model carries the fingerprint of the weights it was made from."""
SAMPLE = 1024
"""Numbers of each tensor that a fingerprint reads, from its middle."""
SHAPES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
QUANTIZATION = ("quant_type", "block_size", "double_quant", "symmetric", "table")


@dataclass(frozen=True)
class Base:
    """A base as an adapter remembers it.

    shapes: what of SHAPES its configuration states. quantization: QuatroConfig's arguments that decide the bits, None for a dense base.
    source: fingerprint of the weights before any quantization, None where they were pickled.
    """

    name: str
    model_type: str
    shapes: dict[str, int]
    quantization: dict[str, Any] | None
    source: str | None

    @property
    def title(self) -> str:
        """As a letter names it."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.shapes.items())
        return f"{self.name or 'a model without a name'} ({self.model_type}; {sizes})"


def base_of(model: PreTrainedModel) -> Base:
    """What a loaded model would be remembered as."""
    quantizer = getattr(model, "hf_quantizer", None)
    config = getattr(quantizer, "quantization_config", None)
    quantization = config if isinstance(config, QuatroConfig) else None
    return described(model.config, model.name_or_path, quantization, _source_of(model, quantization))


def described(config: PreTrainedConfig, name: str, quantization: QuatroConfig | None, source: str | None) -> Base:
    """The same of a model that is not loaded."""
    text, path = config.get_text_config(), Path(name)
    found = {shape: getattr(text, shape, None) for shape in SHAPES}
    shapes = {shape: size for shape, size in found.items() if isinstance(size, int)}
    settings = None
    if quantization is not None:
        settings = {key: getattr(quantization, key) for key in (*QUANTIZATION, "skip_modules")}
    return Base(path.resolve().name if path.is_dir() else name, config.model_type, shapes, settings, source)


def fingerprint(tensors: Mapping[str, StoredTensor]) -> str:
    """Of a checkpoint's weights: names, shapes, and SAMPLE numbers of each as float32, so that a copy in a wider dtype has the same one.

    A page of each tensor is read, not all of it: what training changes it changes everywhere.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.middle(SAMPLE).float().numpy().tobytes())
    return digest.hexdigest()


def source_fingerprint(directory: Path, config: PreTrainedConfig, quantized: bool) -> str | None:
    """Of the 16-bit weights in a directory; of 4-bit ones what they carry, and where they carry nothing their own, marked as such."""
    if quantized and getattr(config, CARRIED, None):
        return str(getattr(config, CARRIED))
    if not has_safetensors(directory):
        return None
    return ("4bit:" if quantized else "") + fingerprint(Checkpoint(directory))


def carry(config: PreTrainedConfig, source: str | None) -> None:
    """Let a 4-bit model know what it was made from; save_pretrained writes it, whoever loads and saves the model again."""
    if source is not None:
        setattr(config, CARRIED, source)


def forget(config: PreTrainedConfig) -> None:
    """Where the weights are no longer those that were quantized."""
    if hasattr(config, CARRIED):
        delattr(config, CARRIED)


def write_record(base: Base, directory: Path) -> None:
    """Beside PEFT's files."""
    (directory / RECORD).write_text(json.dumps(asdict(base), indent=2) + "\n", encoding="utf-8")


def read_record(directory: Path) -> Base | None:
    """None for an adapter that others made. Raises AdapterError for a file that is not whole."""
    file = directory / RECORD
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = Base(**content)
        known = isinstance(found.shapes, dict) and isinstance(found.quantization, dict | None)
        known = (
            known and isinstance(found.source, str | None) and isinstance(found.model_type, str) and isinstance(found.name, str)
        )
    except (ValueError, TypeError):
        known = False
    if not known:
        raise AdapterError(
            f"{file} does not say which base the adapter was made for; take it away if PEFT's files are to be trusted"
        )
    return found


def remembered_quantization(directory: Path, **others: Any) -> QuatroConfig:
    """The quantization that an adapter was trained on, quatro's default where it does not say. others: more of QuatroConfig's arguments."""
    record = read_record(directory)
    settings = (record.quantization or {}) if record else {}
    return QuatroConfig(**{**settings, **others})


def check_base(directory: Path, base: Base, force: bool = False, onto_original: bool = False) -> None:
    """Compare a base with the one that the adapter in a directory remembers, if it remembers any.

    Raises AdapterError for another architecture or shape and, unless force, for other weights; logs a warning for another quantization
    of the same weights (onto_original: none is meant) and wherever the weights cannot be compared.
    """
    made_for = read_record(directory)
    if made_for is None:
        return
    if (made_for.model_type, made_for.shapes) != (base.model_type, base.shapes):
        raise AdapterError(f"the adapter in {directory} was made for {made_for.title}; this base is {base.title}")
    _check_source(directory, made_for, base, force)
    if not onto_original and _bits(made_for) != _bits(base):
        logger.warning(
            "the adapter in %s was made for its base %s; here the base is %s: the same weights, rounded in another way",
            directory,
            _in_words(made_for),
            _in_words(base),
        )


def _check_source(directory: Path, made_for: Base, base: Base, force: bool) -> None:
    if made_for.source == base.source and base.source is not None:
        return
    if None in (made_for.source, base.source) or made_for.source.startswith("4bit:") != base.source.startswith("4bit:"):
        logger.warning(
            "nobody can say whether the adapter in %s was made for these weights: %s and %s are not both known before quantization",
            directory,
            made_for.title,
            base.title,
        )
        return
    letter = (
        f"the adapter in {directory} was made for other weights of this architecture: those of {made_for.name}, fingerprint "
        f"{made_for.source[:12]}; {base.name} has {base.source[:12]}"
    )
    if not force:
        raise AdapterError(f"{letter}; name the base it was made for, or force it")
    logger.warning("%s", letter)


def _bits(base: Base) -> dict[str, Any] | None:
    return None if base.quantization is None else {key: base.quantization.get(key) for key in QUANTIZATION}


def _in_words(base: Base) -> str:
    if base.quantization is None:
        return "in 16 or 32 bits"
    double = " with double quantization" if base.quantization.get("double_quant") else ""
    return f"in {base.quantization.get('quant_type')}, blocks of {base.quantization.get('block_size')}{double}"


def _source_of(model: PreTrainedModel, quantization: QuatroConfig | None) -> str | None:
    if quantization is not None:
        return getattr(model.config, CARRIED, None)
    directory = Path(model.name_or_path or ".")
    if not directory.is_dir():
        return None
    try:
        return source_fingerprint(directory, model.config, quantized=False)
    except CheckpointError:
        return None
