"""Are these bytes text? UTF-8 with or without a byte-order mark; anything else is named, with its line."""

from collections.abc import Iterator
from pathlib import Path

from quatro.format.errors import DatasetError

UTF8_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = {b"\xff\xfe": "UTF-16LE", b"\xfe\xff": "UTF-16BE"}


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its line ending) of a UTF-8 file. Raises DatasetError for other encodings and NUL bytes."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, _decoded(path, number, line)


def _decoded(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        _refuse_other_marks(path, line)
        line = line.removeprefix(UTF8_MARK)
    if b"\0" in line:
        raise DatasetError(
            f"{path}, line {number}: a NUL byte at column {line.index(0) + 1}; the file is cut, binary or in another encoding. "
            "Write it again as UTF-8 text"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(_not_utf8(path, number, line, error)) from None


def _refuse_other_marks(path: Path, line: bytes) -> None:
    name = OTHER_MARKS.get(line[:2])
    if name:
        raise DatasetError(f"{path} is {name}; quatro reads UTF-8. Convert it: {_conversion(path, name)}")


def _not_utf8(path: Path, number: int, line: bytes, error: UnicodeDecodeError) -> str:
    byte = line[error.start]
    letter = f"{path}, line {number}: byte 0x{byte:02x} at column {error.start + 1} is not UTF-8"
    try:
        guess = line[error.start - min(error.start, 10) : error.start + 10].decode("cp1252").strip()
    except UnicodeDecodeError:
        return f"{letter}; convert the file to UTF-8 from the encoding it was written in"
    how = _conversion(path, "WINDOWS-1252")
    return f"{letter}; read as Windows-1252 it says {guess!r}. If that is right, convert it: {how}"


def _conversion(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"
