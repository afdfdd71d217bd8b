"""From what a person names to a model in memory: a directory, a hub id, or `demo` for the embedded base."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quatro.cli.console import busy
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
    """The 4-bit model and its tokenizer, with a spinner while it loads. Options are those of quatro.load.

    An adapter that brings a tokenizer was trained with that one and its chat template, so that one is used.
    """
    source = model_path(name)
    local = Path(source).expanduser().exists()
    with busy(f"loading {name}" if local else f"{name} is no directory here; looking for it on the hub"):
        from quatro.integrations.loading import load

        model, tokenizer = load(source, adapter=adapter, **options)
        own = adapter_tokenizer(adapter, model) if adapter else None
    return model, own or tokenizer


def adapter_tokenizer(adapter: str, model: Any) -> "PreTrainedTokenizerBase | None":
    """The tokenizer in an adapter's directory, None if it has none. Raises AdapterError if it is another vocabulary's."""
    if not (Path(adapter).expanduser() / TOKENIZER_CONFIG).exists():
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(adapter).expanduser())
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise AdapterError(
            f"the tokenizer in {adapter} has {len(tokenizer)} tokens, this base {rows}; it is another base's adapter"
        )
    return tokenizer
