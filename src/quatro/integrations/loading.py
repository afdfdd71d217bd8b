"""From a directory or a hub id to a 4-bit model and its tokenizer, in the memory of the result and two tensors."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from quatro.format.errors import CheckpointError
from quatro.integrations import bitsandbytes
from quatro.integrations.adapters import attach
from quatro.integrations.base import carry, source_fingerprint
from quatro.integrations.checkpoint import Checkpoint, LazyTensor
from quatro.integrations.config import QuatroConfig, stated_dtype
from quatro.integrations.letters import configuration_of, in_one_sentence, quiet_transformers, tokenizer_of
from quatro.integrations.offloading import say_what_is_on_disk
from quatro.integrations.sources import has_safetensors, quantization_of, source_directory
from quatro.integrations.streaming import Progress, Stream
from quatro.integrations.summary import left_behind, one_line

logger = logging.getLogger("quatro")


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
    force: bool = False,
    progress: Progress = lambda read, all: None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with 4-bit linear layers, in evaluation mode, with its tokenizer and, if named, its adapter.

    id_or_dir: a directory, or a hub id (revision: of it). Weights of 32 or 16 bits are quantized while they are read; a directory in
        4 bits already, of quatro or bitsandbytes, is loaded as it is, and quant_type, block_size and double_quant do not apply.
    config: all of the quantization's arguments as one value instead. device_map, max_memory, offload_folder: transformers' own; what a
        map puts on "disk" is written to the folder in 4 bits and read again whenever it is needed.
    force: put the adapter on although it was made for other weights of the same architecture.
    progress: told the bytes that were read so far and all there are, tensor by tensor.
    Raises AdapterError for an adapter that is broken or another base's, CheckpointError for a model that is missing, broken or quantized by others, NonFiniteError for NaN or Inf weights,
    MachineError for a hub out of reach.
    """
    chosen = config or QuatroConfig(quant_type, block_size, double_quant, compute_dtype, skip_modules, precision)
    source = source_directory(id_or_dir, revision)
    method = quantization_of(source)
    placed = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    options = {name: value for name, value in placed.items() if value is not None}
    read = _streamed if has_safetensors(source) else _pickled
    model = read(source, method, chosen, progress, options)
    model.name_or_path = model.config._name_or_path = str(source if Path(id_or_dir).expanduser().is_dir() else id_or_dir)
    tokenizer = load_tokenizer(source)
    _check_vocabulary(model, tokenizer, source)
    _tell(model)
    return (model if adapter is None else attach(model, adapter, force=force)), tokenizer


def load_tokenizer(id_or_dir: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises CheckpointError where there is none that can be read."""
    return tokenizer_of(source_directory(id_or_dir, revision))


def _streamed(
    source: Path, method: str | None, chosen: QuatroConfig, progress: Progress, options: dict[str, Any]
) -> PreTrainedModel:
    """Through transformers' own loader, which is given tensors that are read when it asks for them."""
    config, tensors = configuration_of(source), dict(Checkpoint(source))
    carry(config, source_fingerprint(source, config, quantized=method is not None))
    if method is None:
        options = {**options, "quantization_config": chosen}
    elif method == bitsandbytes.QUANT_METHOD:
        config.quantization_config, tensors = _from_bitsandbytes(config, tensors, chosen)
    with Stream(tensors, progress, ahead=method is None) as stream, quiet_transformers():
        state, dtype = stream.state_dict(), stated_dtype(config) or _first_dtype(tensors)
        return _generating(
            _whole(source, model_class(config), None, config=config, state_dict=state, dtype=dtype, **options), source
        )


def _pickled(
    source: Path, method: str | None, chosen: QuatroConfig, progress: Progress, options: dict[str, Any]
) -> PreTrainedModel:
    """pytorch_model.bin, which torch reads without running what is in it, and all at once: nobody hears how far it is."""
    if method == bitsandbytes.QUANT_METHOD:
        raise CheckpointError(f"{source} is in bitsandbytes' layout, which quatro reads from safetensors only")
    quantized: dict[str, Any] = {} if method else {"quantization_config": chosen}
    return _whole(
        source, model_class(configuration_of(source)), source, dtype="auto", weights_only=True, **quantized, **options
    )


def _whole(source: Path, chosen: Any, where: Path | None, **options: Any) -> PreTrainedModel:
    """chosen.from_pretrained. Raises CheckpointError where it would fill what is missing with random numbers and go on."""
    model, info = in_one_sentence("model", source, lambda: chosen.from_pretrained(where, output_loading_info=True, **options))
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise CheckpointError(
            f"{source} does not hold {', '.join(missing[:4])}{more}, which its architecture needs; the checkpoint is another model's, "
            "or not whole"
        )
    return cast(PreTrainedModel, model)


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


def _first_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """Of the first matrix of floats, where a configuration does not say."""
    by_name = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return next((by_name[t.dtype] for t in tensors.values() if t.dtype in by_name and len(t.shape) > 1), torch.float32)


def _generating(model: PreTrainedModel, source: Path) -> PreTrainedModel:
    """With what transformers adds when it loads by a name: how it generates."""
    if model.can_generate() and (source / "generation_config.json").is_file():
        model.generation_config = in_one_sentence(
            "generation configuration", source, lambda: GenerationConfig.from_pretrained(source)
        )
    return model


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
