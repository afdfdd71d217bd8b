"""From what a person names to a model in memory: a directory, a hub id, or `demo` for the embedded base."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quatro.cli.console import busy, err, reading, say
from quatro.format.errors import AdapterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEMO = "demo"
TOKENIZER_CONFIG = "tokenizer_config.json"


def model_path(name: str) -> str:
    """The directory or hub id behind a name. A directory of the user's that is called demo comes first."""
    return str(demo_asset("base")) if name == DEMO and not Path(name).exists() else name


def demo_asset(*parts: str) -> Path:
    """A path among the embedded assets: base, company/train.jsonl, company/heldout.jsonl."""
    return Path(str(files("quatro.assets").joinpath(*parts)))


def load_model(name: str, adapter: str | None = None, **options: Any) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The 4-bit model and its tokenizer, with a bar of bytes while it is read. Options are those of quatro.load.

    An adapter that brings a tokenizer was trained with that one and its chat template, so that one is used.
    """
    source = _here(model_path(name), name)
    with busy("loading libraries"):
        from quatro.integrations.loading import load
        from quatro.integrations.summary import one_line
    with reading(f"loading {name}") as progress:
        model, tokenizer = load(source, adapter=adapter, progress=progress, **options)
        own = adapter_tokenizer(adapter, model) if adapter else None
    if err.is_terminal:
        say(one_line(model), "dim")
    return model, own or tokenizer


def _here(source: str, name: str) -> str:
    """The source itself; what a hub id names is downloaded before, with the hub's own bars."""
    if Path(source).expanduser().exists():
        return source
    if err.is_terminal:
        say(f"{name} is no directory here; looking for it on the hub", "dim")
    from quatro.integrations.sources import source_directory

    source_directory(source)
    return source


def adapter_tokenizer(adapter: str, model: Any) -> "PreTrainedTokenizerBase | None":
    """The tokenizer in an adapter's directory, None if it has none. Raises AdapterError if it is another vocabulary's."""
    if not (Path(adapter).expanduser() / TOKENIZER_CONFIG).exists():
        return None
    from quatro.integrations.letters import tokenizer_of

    tokenizer = tokenizer_of(Path(adapter).expanduser())
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise AdapterError(
            f"the tokenizer in {adapter} has {len(tokenizer)} tokens, this base {rows}; it is another base's adapter"
        )
    return tokenizer
