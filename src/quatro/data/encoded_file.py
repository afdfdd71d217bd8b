"""One file's rows as sequences of tokens, with an account of every row that is not among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from quatro.data.encode import Encoded, Encoder
from quatro.data.examples import Chat, Example, Text
from quatro.data.formats import Format, as_example, choose_format
from quatro.data.rows import Row, Rows, read_rows
from quatro.data.split import fingerprint
from quatro.data.summary import DropCounter, FileSummary
from quatro.data.templates import Template
from quatro.data.tokens import TokenRows, TokenRowsBuilder
from quatro.data.windows import windows
from quatro.format.errors import DatasetError

CHUNK = 512


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """row_keys, keys: for each sequence the fingerprint of its row, and its own. template: the one chats were rendered with."""

    sequences: TokenRows
    row_keys: list[bytes]
    keys: list[bytes]
    is_text: bool
    template: Template | None
    summary: FileSummary


def encode_file(encoder: Encoder, path: str | Path, format: str, max_length: int) -> EncodedFile:
    """Every usable row as sequences of at most max_length tokens.

    Plain text is cut into windows; other rows that are longer are dropped and counted. Raises DatasetError with reasons and row
    numbers if nothing can be used.
    """
    rows = read_rows(path)
    account = _Account(encoder, rows, choose_format(rows, format), max_length)
    for chunk in _chunks(rows):
        account.add(chunk)
    return account.closed()


def _chunks(rows: Rows) -> Iterator[list[Row]]:
    stream = iter(rows)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


@dataclass(slots=True)
class _Account:
    """Takes a file's rows in chunks and keeps count of all of them."""

    encoder: Encoder
    rows: Rows
    format: Format
    max_length: int
    builder: TokenRowsBuilder = field(default_factory=TokenRowsBuilder)
    drops: DropCounter = field(default_factory=DropCounter)
    row_keys: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    kind: str = ""
    read: int = 0
    used: int = 0

    def add(self, chunk: Sequence[Row]) -> None:
        """Understand, encode and count some rows."""
        self.read += len(chunk)
        understood = [(row.number, example) for row in chunk if (example := self._example(row)) is not None]
        encoded = self.encoder.encode(example for _, example in understood)
        for (number, example), found in zip(understood, encoded, strict=True):
            self._take(number, example, found)

    def _example(self, row: Row) -> Example | None:
        try:
            return as_example(row, self.format)
        except DatasetError as reason:
            self.drops.add(row.number, str(reason))
            return None

    def _take(self, number: int, example: Example, found: Encoded | DatasetError) -> None:
        if isinstance(found, DatasetError):
            self.drops.add(number, str(found))
            return
        if len(found.input_ids) > self.max_length and not isinstance(example, Text):
            self.drops.add(number, f"more than max_length {self.max_length} tokens")
            return
        if isinstance(example, Chat):
            self.kind = example.kind
        row_key = fingerprint(found)
        self.used += 1
        for piece in windows(found, self.max_length) if isinstance(example, Text) else [found]:
            self.builder.add(piece)
            self.row_keys.append(row_key)
            self.keys.append(row_key if piece is found else fingerprint(piece))

    def closed(self) -> EncodedFile:
        """The file's sequences. Raises DatasetError if there are none."""
        if not self.used:
            reasons = "; ".join(drop.sentence(self.rows.unit) for drop in self.drops.dropped())
            raise DatasetError(f"{self.rows.path} has {self.read:,} rows and none can be used: {reasons}")
        sequences, template = self.builder.build(), self._template()
        is_text = self.format.name == "text"
        return EncodedFile(sequences, self.row_keys, self.keys, is_text, template, self._summary(sequences, template))

    def _template(self) -> Template | None:
        return self.encoder.template(self.kind) if self.kind else None

    def _summary(self, sequences: TokenRows, template: Template | None) -> FileSummary:
        return FileSummary(
            path=str(self.rows.path),
            unit=self.rows.unit,
            format=self.format.name,
            template=template.name if template else None,
            rows=self.read,
            used=self.used,
            sequences=len(sequences),
            tokens=int(sequences.lengths.sum()),
            learned_tokens=sequences.learned_tokens,
            longest=int(sequences.lengths.max()),
            dropped=self.drops.dropped(),
        )
