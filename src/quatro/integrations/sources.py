"""What did a person name, and who quantized it? Asked of a directory before anything large is read."""

import json
from pathlib import Path
from typing import Any

from quatro.format.errors import CheckpointError, did_you_mean
from quatro.integrations import bitsandbytes
from quatro.integrations.checkpoint import INDEX, SINGLE
from quatro.integrations.config import QUANT_METHOD
from quatro.integrations.hub import directory_of

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def source_directory(id_or_dir: str | Path, revision: str | None = None) -> Path:
    """The model's directory, of a hub id the one in the cache; a path that cannot be a model is refused before anything is read."""
    path = directory_of(_checked_name(id_or_dir), revision)
    _check_directory(path)
    return path


def _checked_name(id_or_dir: str | Path) -> str:
    text = str(id_or_dir)
    if not text:
        raise CheckpointError("the model's name is empty, so it does not exist; name a directory or a hub id")
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise CheckpointError(f"{text} is a file; name the directory that holds config.json and the weights")
    if isinstance(id_or_dir, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise CheckpointError(f"{text} does not exist; name a directory with config.json and weights, or a hub id")
    return text


def has_safetensors(directory: Path) -> bool:
    """Whether its weights are in safetensors, one file or many."""
    return any((directory / name).is_file() for name in (SINGLE, INDEX))


def quantization_of(directory: Path) -> str | None:
    """The library whose 4 bits the weights are in, or None. Raises CheckpointError for one that quatro does not read."""
    settings = _read_config(directory).get("quantization_config") or {}
    method = settings.get("quant_method")
    readable = [QUANT_METHOD, bitsandbytes.QUANT_METHOD]
    if method is not None and method not in readable:
        raise CheckpointError(
            f"{directory} is already quantized with quant_method {method!r}; {did_you_mean(str(method), readable)}, or start from its "
            "16-bit weights"
        )
    if method == bitsandbytes.QUANT_METHOD and settings.get("load_in_8bit"):
        raise CheckpointError(
            f"{directory} is in bitsandbytes' 8 bits; quatro reads its 4 bits, so start from the 16-bit weights"
        )
    return None if method is None else str(method)


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        hint = (
            f"; it holds an adapter, so name its base model and pass --adapter {path}"
            if (path / "adapter_config.json").is_file()
            else ""
        )
        raise CheckpointError(f"{path} has no config.json, so it is not a model directory{hint}")
    if not has_safetensors(path) and not any((path / name).is_file() for name in PICKLED):
        raise CheckpointError(
            f"{path} has a config.json but no weights; one of {', '.join((SINGLE, INDEX, *PICKLED))} is needed"
        )


def _read_config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CheckpointError(f"{file} names no model_type; it is not a transformers configuration")
    return config
