"""Held-out rows as a judge needs them: tokens with labels for the loss, a prompt to answer, and the fact that is right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from quatro.data.decoding import text_lines
from quatro.data.encode import IGNORED, Encoded, Encoder
from quatro.data.examples import Chat, Completion, Example, Message
from quatro.data.formats import Format, as_example, choose_format
from quatro.data.rows import Row, Rows, read_rows
from quatro.data.stops import stop_ids, stop_strings
from quatro.data.templates import choose_template, render
from quatro.data.tokenizer import opening_ids, token_lists
from quatro.format.errors import DatasetError

REASONS_SHOWN = 5
PLAIN = "plain"
"""The kind of rows that are no chats."""


@dataclass(frozen=True)
class Held:
    """One usable row. question: what a person reads; prompt: what the model reads before its answer; None for plain text."""

    encoded: Encoded
    question: str | None = None
    prompt: tuple[int, ...] | None = None
    fact: str | None = None
    kind: str = PLAIN


@dataclass(frozen=True)
class HeldOut:
    """The usable rows of a file, and for each other one a line that names it and says why it was left out."""

    rows: tuple[Held, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What the rows are: it decides about the template where that is "auto", and about how an answer ends."""
        return self.rows[0].kind if self.rows else "messages"


def read_held_out(
    source: str | Path | Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    format: str = "auto",
    template: str = "auto",
    max_length: int | None = None,
    limit: int | None = None,
) -> HeldOut:
    """The rows of a data file, at most `limit`, as they would be trained on; a `fact` field, if there is one, is kept.

    Raises DatasetError where no row is usable (with the reasons of the first ones), TemplateError where chats have no template.
    """
    rows = source if isinstance(source, Rows) else read_rows(source)
    chosen, encoder = choose_format(rows, format), Encoder(tokenizer, template)
    usable: list[Held] = []
    left_out: list[str] = []
    for row in islice(rows, limit):
        try:
            usable.append(_held(row, chosen, encoder, max_length))
        except DatasetError as error:
            left_out.append(f"{rows.unit} {row.number}: {error}")
    if not usable:
        raise DatasetError(_none_usable(rows, left_out))
    return HeldOut(tuple(usable), tuple(left_out))


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The lines of a UTF-8 text file that are not blank. Raises DatasetError for a file that is missing or has none."""
    file = Path(path).expanduser()
    if not file.is_file():
        found = "is a directory" if file.is_dir() else "does not exist"
        raise DatasetError(f"{file} {found}; name a text file with one prompt a line")
    prompts = tuple(line.strip() for _, line in text_lines(file) if line.strip())
    if not prompts:
        raise DatasetError(f"{file} holds no prompt; write one a line")
    return prompts


def open_prompt(text: str, tokenizer: PreTrainedTokenizerBase, template: str, kind: str) -> tuple[int, ...]:
    """What the model reads before it answers a text: a chat's first turn, or the text itself where rows are no chats."""
    if kind == PLAIN:
        return (*opening_ids(tokenizer), *token_lists(tokenizer, [text])[0])
    chosen = choose_template(template, tokenizer, kind)
    return tuple(token_lists(tokenizer, [render(chosen, tokenizer, [Message("user", text)], prompt=True)])[0])


def endings(tokenizer: PreTrainedTokenizerBase, template: str, kind: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(strings, tokens) at which an answer to rows of this kind is over, beside the checkpoint's own end token."""
    return ((), ()) if kind == PLAIN else (stop_strings(tokenizer, template, kind), stop_ids(tokenizer, template, kind))


def _held(row: Row, chosen: Format, encoder: Encoder, max_length: int | None) -> Held:
    example = as_example(row, chosen)
    (encoded,) = encoder.encode([example])
    if isinstance(encoded, DatasetError):
        raise encoded
    if max_length is not None and len(encoded.input_ids) > max_length:
        raise DatasetError(f"{len(encoded.input_ids)} tokens, more than the {max_length} that the model reads")
    kind, question = example.kind if isinstance(example, Chat) else PLAIN, _question(example)
    if question is None:
        return Held(encoded, kind=kind)
    return Held(encoded, question, tuple(encoded.input_ids[: last_answer_start(encoded.labels)]), _fact(row), kind)


def last_answer_start(labels: Sequence[int]) -> int:
    """Where the last run of labelled tokens begins: before it stands exactly what training saw before that answer."""
    learned = [label != IGNORED for label in labels]
    end = max(index for index, yes in enumerate(learned) if yes)
    return next((index + 1 for index in range(end, -1, -1) if not learned[index]), 0)


def _question(example: Example) -> str | None:
    match example:
        case Chat(messages):
            asked = messages[-2]
            return f"{asked.content}\n{asked.input}" if asked.input else asked.content
        case Completion(prompt):
            return prompt or None
    return None


def _fact(row: Row) -> str | None:
    fact = row.values.get("fact") if isinstance(row.values, dict) else None
    if fact is not None and not (isinstance(fact, str) and fact.strip()):
        raise DatasetError(f"fact is {fact!r}; it is the text that a right answer contains, or left out")
    return fact


def _none_usable(rows: Rows, left_out: Sequence[str]) -> str:
    return f"{rows.path}: no usable row; {'; '.join(_first(left_out))}"


def _first(reasons: Sequence[str]) -> Iterator[str]:
    yield from reasons[:REASONS_SHOWN]
    if len(reasons) > REASONS_SHOWN:
        yield f"and {len(reasons) - REASONS_SHOWN} more"
