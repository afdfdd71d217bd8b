"""From a directory or a hub id to a 4-bit model and its tokenizer, in the memory of the result and two tensors."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from quatro.format.errors import CheckpointError, QuatroError
from quatro.integrations import bitsandbytes
from quatro.integrations.adapters import attach
from quatro.integrations.checkpoint import Checkpoint, LazyTensor
from quatro.integrations.config import QuatroConfig
from quatro.integrations.offloading import say_what_is_on_disk
from quatro.integrations.sources import has_safetensors, quantization_of, source_directory
from quatro.integrations.streaming import Progress, Stream, nbytes
from quatro.integrations.summary import left_behind, one_line

logger = logging.getLogger("quatro")

Total = Progress
"""Called once with the bytes that will be read."""


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
    revision: str | None = None,
    device_map: Any = None,
    max_memory: dict[Any, Any] | None = None,
    offload_folder: str | Path | None = None,
    total: Total | None = None,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with 4-bit linear layers, in evaluation mode, with its tokenizer and, if named, its adapter.

    id_or_dir: a directory, or a hub id (revision: of it). Weights of 32 or 16 bits are quantized while they are read; a directory in
        4 bits already, of quatro or bitsandbytes, is loaded as it is, and quant_type, block_size and double_quant do not apply.
    config: all of the quantization's arguments as one value instead. device_map, max_memory, offload_folder: transformers' own; what a
        map puts on "disk" is written to the folder in 4 bits and read again whenever it is needed.
    total, progress: told how many bytes there are to read, and each tensor's when it was read.
    Raises CheckpointError for a model that is missing, broken or quantized by others, NonFiniteError for NaN or Inf weights,
    MachineError for a hub out of reach.
    """
    chosen = config or QuatroConfig(quant_type, block_size, double_quant, compute_dtype, skip_modules, precision)
    source = source_directory(id_or_dir, revision)
    method = quantization_of(source)
    placed = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    options = {name: value for name, value in placed.items() if value is not None}
    if has_safetensors(source):
        model = _streamed(source, method, chosen, total or _nobody, progress or _nobody, options)
    else:
        model = _pickled(source, method, chosen, options)
    tokenizer = load_tokenizer(source)
    _check_vocabulary(model, tokenizer, source)
    _tell(model)
    return (model if adapter is None else attach(model, adapter)), tokenizer


def load_tokenizer(id_or_dir: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises CheckpointError where there is none that can be read."""
    source = source_directory(id_or_dir, revision)
    return _without_tracebacks("tokenizer", source, lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False))


def _streamed(
    source: Path, method: str | None, chosen: QuatroConfig, total: Total, progress: Progress, options: dict[str, Any]
) -> PreTrainedModel:
    """Through transformers' own loader, which is given tensors that are read when it asks for them."""
    tensors: Mapping[str, LazyTensor] = Checkpoint(source)
    total(sum(map(nbytes, tensors.values())))
    config = _without_tracebacks("configuration", source, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))
    if method is None:
        options = {**options, "quantization_config": chosen}
    elif method == bitsandbytes.QUANT_METHOD:
        config.quantization_config, tensors = _from_bitsandbytes(config, tensors, chosen)
    with Stream(tensors, progress, ahead=method is None) as stream, _quiet_transformers():
        model, info = _without_tracebacks(
            "model",
            source,
            lambda: model_class(config).from_pretrained(
                None,
                config=config,
                state_dict=stream.state_dict(),
                dtype=_dtype(config, tensors),
                output_loading_info=True,
                **options,
            ),
        )
    _check_complete(source, info)
    return _named(model, source)


def _pickled(source: Path, method: str | None, chosen: QuatroConfig, options: dict[str, Any]) -> PreTrainedModel:
    """pytorch_model.bin, which torch reads without running what is in it."""
    if method == bitsandbytes.QUANT_METHOD:
        raise CheckpointError(f"{source} is in bitsandbytes' layout, which quatro reads from safetensors only")
    config = _without_tracebacks("configuration", source, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))
    quantized: dict[str, Any] = {} if method else {"quantization_config": chosen}
    found: PreTrainedModel = _without_tracebacks(
        "model",
        source,
        lambda: model_class(config).from_pretrained(source, dtype="auto", weights_only=True, **quantized, **options),
    )
    return found


def model_class(config: PreTrainedConfig) -> Any:
    """The class that a checkpoint is loaded into: the one its config names or, where that has no head, the causal language model."""
    mapping: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    names = getattr(config, "architectures", None) or []
    named = getattr(transformers, names[0], None) if names and not names[0].endswith("Model") else None
    found = named or mapping.get(type(config), None)
    if found is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} knows no model to load {type(config).__name__} into; its config.json should name "
            "one under architectures"
        )
    return found


def _from_bitsandbytes(
    config: PreTrainedConfig, tensors: Mapping[str, LazyTensor], chosen: QuatroConfig
) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """(quatro's quantization_config for it, the tensors by quatro's names)."""
    found, spec = bitsandbytes.from_bitsandbytes(tensors)
    theirs: Any = config.quantization_config
    theirs = theirs if isinstance(theirs, dict) else theirs.to_dict()
    skipped = theirs.get("llm_int8_skip_modules")
    options = (chosen.compute_dtype, skipped, chosen.precision)
    return QuatroConfig(spec.quant_type, spec.block_size, spec.double_quant, *options).to_dict(), found


def _dtype(config: PreTrainedConfig, tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """What the checkpoint says of itself, else what its first matrix of floats is."""
    named: torch.dtype | None = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    if named is not None:
        return named
    by_name = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return next((by_name[t.dtype] for t in tensors.values() if t.dtype in by_name and len(t.shape) > 1), torch.float32)


def _named(model: PreTrainedModel, source: Path) -> PreTrainedModel:
    """With what transformers adds when it loads by a name: where it is from, and how it generates."""
    model.name_or_path = model.config._name_or_path = str(source)
    if model.can_generate() and (source / "generation_config.json").is_file():
        model.generation_config = _without_tracebacks(
            "generation configuration", source, lambda: GenerationConfig.from_pretrained(source)
        )
    return model


def _check_complete(source: Path, info: Mapping[str, Any]) -> None:
    """transformers fills what is missing with random numbers and goes on."""
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise CheckpointError(
            f"{source} does not hold {', '.join(missing[:4])}{more}, which its architecture needs; the checkpoint is another model's, "
            "or not whole"
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' bar of tensors; bytes are told by `progress`."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _without_tracebacks(what: str, source: Path, read: Any) -> Any:
    """What transformers reads, its expected failures turned into one sentence."""
    try:
        return read()
    except UnpicklingError as error:
        raise CheckpointError(
            f"the pickled weights of {source} hold more than tensors, and reading that would run code; get the checkpoint in safetensors"
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, QuatroError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckpointError(f"could not load the {what} from {source}: {lines[0]}") from error


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Path) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens but the embedding only {rows} rows; "
            "it belongs to another model, or tokens were added without resizing the embedding"
        )


def _tell(model: PreTrainedModel) -> None:
    say_what_is_on_disk(model)
    for name, count in left_behind(model).items():
        logger.warning("%s stays dense: %.1f million weights that quatro does not quantize", name, count / 1e6)
    logger.info("%s", one_line(model))


def _nobody(count: int) -> None:
    """Hears it."""
