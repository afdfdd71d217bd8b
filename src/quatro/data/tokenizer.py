"""What a tokenizer must be able to do here; every tokenizer of transformers can."""

from collections.abc import Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of transformers' PreTrainedTokenizerBase that data uses."""

    bos_token: str | None
    eos_token: str | None
    eos_token_id: int | None
    all_special_tokens: list[str]
    all_special_ids: list[int]
    chat_template: str | dict[str, str] | None
    is_fast: bool

    def __call__(self, text: Any, *, add_special_tokens: bool = True, verbose: bool = True) -> Any:
        """A mapping with the tokens of one text, or of each of several, under input_ids."""

    def apply_chat_template(self, conversation: Any, *, chat_template: str | None = None, **options: Any) -> Any:
        """A chat as text, or as tokens with a mask of the assistant's."""


def token_lists(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text as it stands, without special tokens around it."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def opening_ids(tokenizer: Tokenizer) -> list[int]:
    """The special tokens this tokenizer puts before every text: BOS for most models, nothing for some."""
    plain = token_lists(tokenizer, ["a"])[0]
    full: list[int] = list(tokenizer("a")["input_ids"])
    starts = (k for k in range(len(full)) if full[k : k + len(plain)] == plain)
    return full[: next(starts, 0)]
