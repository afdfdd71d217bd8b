"""From a directory or a hub id to a 4-bit model and its tokenizer."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from quatro.format.errors import CheckpointError, QuatroError, did_you_mean
from quatro.integrations.adapters import attach
from quatro.integrations.config import QUANT_METHOD, QuatroConfig

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load(
    id_or_dir: str | Path,
    adapter: str | Path | None = None,
    *,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = True,
    compute_dtype: str = "auto",
    precision: str = "high",
    skip_modules: list[str] | None = None,
    config: QuatroConfig | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model with 4-bit linear layers, in evaluation mode, with its tokenizer and, if named, its adapter.

    id_or_dir: a directory, or a hub id. A directory that quatro saved is loaded as it is, and the quantization
        arguments do not apply to it. config: all of them as one value instead.
    Raises CheckpointError for a model that is missing, broken or quantized by others, NonFiniteError for NaN or Inf weights.
    """
    chosen = config or QuatroConfig(quant_type, block_size, double_quant, compute_dtype, skip_modules, precision)
    source = _checked_source(id_or_dir)
    already = _refuse_foreign_quantization(source, _read_config(source))
    options: dict[str, Any] = {} if already else {"quantization_config": chosen}
    model = _from_pretrained(AutoModelForCausalLM, source, dtype="auto", **options)
    tokenizer = load_tokenizer(source)
    _check_vocabulary(model, tokenizer, source)
    return (model if adapter is None else attach(model, adapter)), tokenizer


def load_tokenizer(id_or_dir: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises CheckpointError where there is none that can be read."""
    return _from_pretrained(AutoTokenizer, _checked_source(id_or_dir))


def _from_pretrained(auto: type, source: str, **options: Any) -> Any:
    """transformers' loader, its expected failures turned into one sentence."""
    what = "tokenizer" if auto is AutoTokenizer else "model"
    try:
        return auto.from_pretrained(source, **options)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, QuatroError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckpointError(f"could not load the {what} from {source}: {lines[0]}") from error


def _checked_source(id_or_dir: str | Path) -> str:
    """The argument as transformers takes it; a path that cannot be a model is refused before anything is read."""
    text = str(id_or_dir)
    if not text:
        raise CheckpointError("the model's name is empty, so it does not exist; name a directory or a hub id")
    path = Path(text).expanduser()
    if path.is_dir():
        _check_directory(path)
        return str(path)
    if path.exists():
        raise CheckpointError(f"{text} is a file; name the directory that holds config.json and the weights")
    if isinstance(id_or_dir, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise CheckpointError(f"{text} does not exist; name a directory with config.json and weights, or a hub id")
    return text


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        hint = (
            f"; it holds an adapter, so name its base model and pass --adapter {path}"
            if (path / "adapter_config.json").is_file()
            else ""
        )
        raise CheckpointError(f"{path} has no config.json, so it is not a model directory{hint}")
    if not any((path / name).is_file() for name in WEIGHTS):
        raise CheckpointError(f"{path} has a config.json but no weights; one of {', '.join(WEIGHTS)} is needed")


def _read_config(source: str) -> dict[str, Any]:
    """A local directory's config.json, or nothing for a hub id."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CheckpointError(f"{file} names no model_type; it is not a transformers configuration")
    return config


def _refuse_foreign_quantization(source: str, config: dict[str, Any]) -> bool:
    """Whether the checkpoint is quatro's own already. Raises CheckpointError for another library's."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method not in (None, QUANT_METHOD):
        known = did_you_mean(str(method), [QUANT_METHOD])
        raise CheckpointError(
            f"{source} is already quantized with quant_method {method!r}; {known}, or start from its 16-bit weights"
        )
    return method == QUANT_METHOD


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens but the embedding only {rows} rows; "
            "it belongs to another model, or tokens were added without resizing the embedding"
        )
