"""Where an answer ends: the tokens that say so, and how much a model can read at once."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, others: Iterable[int] = ()) -> list[int]:
    """Every token that ends an answer: the checkpoint's, the tokenizer's, and `others`, such as the end of a turn."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    wanted = [*_as_list(configured), tokenizer.eos_token_id, *others]
    return sorted({token for token in wanted if token is not None})


def context_window(model: PreTrainedModel) -> int | None:
    """How many tokens the model reads at once; None where its configuration names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def pad_id(tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> int:
    """A token to pad with; it is masked, so which one does not matter."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]
