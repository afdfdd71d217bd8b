"""How a local file is read, one row at a time: jsonl, json, parquet, csv or txt; each row knows where it stood."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quatro.data.decoding import text_lines
from quatro.format.errors import DatasetError, did_you_mean

LONGEST_FIELD = 2**31 - 1
WHOLE = (".json", ".txt")
DOCUMENT_END = re.compile(r"<\|endoftext\|>|(?<=### END\.)")


@dataclass(frozen=True, slots=True)
class Row:
    """values: what stood there, an object with named fields if the row is usable. number: its line or row, from 1."""

    number: int
    values: object


@dataclass(frozen=True)
class Rows:
    """The rows of one file, read again at each iteration; never all in memory, except those of a JSON array or a text."""

    path: Path
    unit: str
    reader: Callable[[Path], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.reader(self.path)


def read_rows(path: str | Path) -> Rows:
    """The rows of a .jsonl, .json, .parquet, .csv or .txt file.

    A text is one row per document: they end at <|endoftext|> or ### END. A CSV has a header. A .json file is an array of
    objects or one object a line. Raises DatasetError for a file that is missing, empty, no file, or of another kind; while
    rows are read, for a broken line, bytes that are not UTF-8 and NUL bytes.
    """
    path = Path(path).expanduser()
    _check_file(path)
    unit, reader = READERS[path.suffix.lower()]
    rows = Rows(path, unit, _kept(reader, path) if path.suffix.lower() in WHOLE else reader)
    if next(iter(rows), None) is None:
        raise DatasetError(f"{path} holds no rows; expected {EXPECTED[path.suffix.lower()]}")
    return rows


def _kept(reader: Callable[[Path], Iterator[Row]], path: Path) -> Callable[[Path], Iterator[Row]]:
    """A reader that has read: such files cannot be read in part, so they are read once."""
    kept = tuple(reader(path))
    return lambda _: iter(kept)


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix.lower() in READERS)
        hint = f"name one of its files: {', '.join(inside[:8])}" if inside else f"it holds no {', '.join(READERS)} file"
        raise DatasetError(f"{path} is a directory; data.train takes one file; {hint}")
    if not path.exists():
        raise DatasetError(f"{path} does not exist; {_neighbors(path)}")
    if path.suffix.lower() not in READERS:
        raise DatasetError(f"{path} is of a kind that quatro does not read; convert it to one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path} is empty (0 bytes); expected {EXPECTED[path.suffix.lower()]}")


def _neighbors(path: Path) -> str:
    if not path.parent.is_dir():
        return f"nor does the directory {path.parent}; give the path of a {', '.join(READERS)} file"
    names = [child.name for child in path.parent.iterdir() if child.suffix.lower() in READERS]
    return did_you_mean(path.name, names[:50]) if names else f"{path.parent.resolve()} holds no {', '.join(READERS)} file"


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in text_lines(path):
        if line.strip():
            yield Row(number, _parsed(path, number, line))


def _parsed(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        cut = " (the line is cut off?)" if error.pos >= len(line.rstrip()) - 1 or "Unterminated" in error.msg else ""
        raise DatasetError(f"{path}, line {number} is not JSON: {_said(error)}{cut}. Repair or delete the line") from None


def _said(error: json.JSONDecodeError) -> str:
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def _json(path: Path) -> Iterator[Row]:
    first = next((line.lstrip() for _, line in text_lines(path) if line.strip()), "")
    if first.startswith("{") and _is_json(first):
        yield from _jsonl(path)
        return
    text = "".join(line for _, line in text_lines(path))
    if text.strip():
        for number, values in enumerate(_array(path, text), 1):
            yield Row(number, values)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _array(path: Path, text: str) -> list[object]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}, line {error.lineno} is not JSON: {_said(error)}. Repair it") from None
    if not isinstance(found, list):
        kind = "one JSON object" if isinstance(found, dict) else f"a JSON {type(found).__name__}"
        raise DatasetError(f"{path} is {kind}; expected {EXPECTED['.json']}")
    return found


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader((line for _, line in text_lines(path)), strict=True)
    header: list[str] | None = None
    start = 1
    for cells in _cells(path, reader):
        if header is None:
            header = [name.strip() for name in cells]
        elif cells:
            yield Row(start, _record(path, start, header, cells))
        start = reader.line_num + 1


def _cells(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        line = getattr(reader, "line_num", "?")
        raise DatasetError(f"{path}, line {line} is not CSV: {error}. Quote fields that hold quotes or line breaks") from None


def _record(path: Path, number: int, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise DatasetError(
            f"{path}, line {number} has {len(cells)} fields, the header {len(header)} ({', '.join(header)}). "
            "Quote fields that hold commas"
        )
    return dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{path} is not a readable parquet file after row {number}: {str(error).splitlines()[0]}") from None


def _txt(path: Path) -> Iterator[Row]:
    text = "".join(line for _, line in text_lines(path))
    line = 1
    for part in DOCUMENT_END.split(text):
        if part.strip():
            yield Row(line + part[: len(part) - len(part.lstrip())].count("\n"), {"text": part.strip()})
        line += part.count("\n")


READERS: dict[str, tuple[str, Callable[[Path], Iterator[Row]]]] = {
    ".jsonl": ("line", _jsonl),
    ".json": ("row", _json),
    ".parquet": ("row", _parquet),
    ".csv": ("line", _csv),
    ".txt": ("line", _txt),
}
EXPECTED = {
    ".jsonl": 'one JSON object a line, such as {"text": "..."}',
    ".json": "an array of objects, or one object a line",
    ".parquet": "a table with a row for each example",
    ".csv": "a header line with the fields' names, and a line for each example",
    ".txt": "text; <|endoftext|> divides documents",
}
