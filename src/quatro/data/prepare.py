"""From files to the two datasets of a run: what is trained on and what is held out."""

from dataclasses import dataclass
from pathlib import Path

from quatro.data.encode import Encoder
from quatro.data.encoded_file import EncodedFile, encode_file
from quatro.data.split import split
from quatro.data.summary import DataSummary
from quatro.data.templates import Template
from quatro.data.tokenizer import Tokenizer
from quatro.data.tokens import TokenRows
from quatro.format.errors import InputError

SHORTEST = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """The datasets of a run. held: None without evaluation. template: what chats were rendered with; None for texts."""

    train: TokenRows
    held: TokenRows | None
    template: Template | None
    summary: DataSummary


def prepare(
    tokenizer: Tokenizer,
    train: str | Path,
    held: str | Path | float | None = None,
    *,
    format: str = "auto",
    template: str = "auto",
    max_length: int = 1024,
    loss_on: str = "assistant",
    seed: int = 42,
) -> Prepared:
    """The sequences to train on and those held out.

    held: a file, a fraction of the training rows between 0 and 1, or nothing. max_length: longer chats and completions are
    dropped and counted, plain text is cut into windows that overlap by one token, so that each is learned once.
    Raises DatasetError with the reasons if no row can be used, TemplateError if chats have no template.
    """
    _check(max_length, held)
    encoder = Encoder(tokenizer, template, loss_on)
    main = encode_file(encoder, train, format, max_length)
    if isinstance(held, str | Path):
        return _with_file(main, encode_file(encoder, held, format, max_length))
    return _with_fraction(main, held, seed) if held else _without(main)


def _check(max_length: int, held: str | Path | float | None) -> None:
    if max_length < SHORTEST:
        raise InputError(f"data.max_length is {max_length}; a sequence needs at least {SHORTEST} tokens")
    if isinstance(held, int | float) and not 0 <= held < 1:
        raise InputError(f"data.eval is {held}; give a fraction between 0 and 1, a file, or null")


def _without(main: EncodedFile) -> Prepared:
    summary = DataSummary(main.summary, None, len(main.sequences), 0, ("nothing is held out: no evaluation loss",))
    return Prepared(main.sequences, None, main.template, summary)


def _with_file(main: EncodedFile, other: EncodedFile) -> Prepared:
    seen = set(main.keys)
    shared = sum(key in seen for key in other.keys)
    notes = (f"{shared:,} held-out sequences also stand in the training data: the held-out loss flatters",) if shared else ()
    summary = DataSummary(main.summary, other.summary, len(main.sequences), len(other.sequences), notes)
    return Prepared(main.sequences, other.sequences, main.template, summary)


def _with_fraction(main: EncodedFile, fraction: float, seed: int) -> Prepared:
    sides = split(main.row_keys, main.keys, fraction, seed, main.is_text)
    notes = ("too few documents to hold out a part of them: the end of the text is held out",) if sides.by == "end" else ()
    train, held = main.sequences.only(sides.train), main.sequences.only(sides.held)
    return Prepared(train, held, main.template, DataSummary(main.summary, None, len(train), len(held), notes))
