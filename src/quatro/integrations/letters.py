"""What transformers says when it cannot read something, as one sentence; and transformers without its bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from quatro.format.errors import CheckpointError, QuatroError

Found = TypeVar("Found")


def in_one_sentence(what: str, source: Path, read: Callable[[], Found]) -> Found:
    """What read() gives. Raises CheckpointError, naming `what`, for transformers' expected failures."""
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


def configuration_of(source: Path) -> PreTrainedConfig:
    """transformers' configuration of a model directory; code that a checkpoint brings is not run."""
    return in_one_sentence("configuration", source, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))


def tokenizer_of(source: Path) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a directory; code that it brings is not run."""
    return in_one_sentence("tokenizer", source, lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' bar of tensors, where bytes are told instead."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
