import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from quatro.data.rows import read_rows
from quatro.format.errors import DatasetError

ROWS = [{"prompt": 'a, "b"\nc', "completion": "x"}, {"prompt": "zwei", "completion": "größer 🙂"}]


def _write(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(ROWS), path)
        case ".csv":
            path.write_text('prompt,completion\n"a, ""b""\nc",x\nzwei,größer 🙂\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = read_rows(_write(tmp_path / f"data{suffix}"))
    assert [row.values for row in rows] == ROWS
    assert [row.values for row in rows] == ROWS, "a second iteration reads again"


def test_rows_know_where_they_stood(tmp_path: Path) -> None:
    """Lines count blank ones; a CSV row begins where its first field does, also behind one of several lines; arrays count."""
    (tmp_path / "a.jsonl").write_text('\n{"text": "x"}\n\n{"text": "y"}\n')
    assert [row.number for row in read_rows(tmp_path / "a.jsonl")] == [2, 4]
    assert [row.number for row in read_rows(_write(tmp_path / "a.csv"))] == [2, 4]
    assert [row.number for row in read_rows(_write(tmp_path / "a.json"))] == [1, 2]
    assert [row.number for row in read_rows(_write(tmp_path / "a.parquet"))] == [1, 2]


def test_json_may_hold_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_text('{"text": "x"}\n{"text": "y"}\n')
    assert [row.values for row in read_rows(path)] == [{"text": "x"}, {"text": "y"}]


def test_a_text_is_divided_at_document_ends_and_replies(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\nstory\n<|endoftext|>\n\nsecond\n<|endoftext|>\n")
    assert [(row.number, row.values) for row in read_rows(path)] == [(1, {"text": "first\nstory"}), (5, {"text": "second"})]
    path.write_text("### Comment: a ### REPLY: b ### END.\n### Comment: c\n### REPLY: d\n### END.\n")
    assert [row.number for row in read_rows(path)] == [1, 2]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,completion\na,b\n")
    assert next(iter(read_rows(path))).values == {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.jsonl", b'{"text": "a"}\n{"text": "b', r"line 2 is not JSON: .* at column 10 \(the line is cut off\?\)"),
        ("bad.jsonl", b'{"text": "a"}\n{"text" "b"}\n', "line 2 is not JSON: Expecting ':' delimiter at column 9"),
        ("cut.json", b'[{"text": "a"},\n {"text": ', "line 2 is not JSON"),
        ("object.json", b'{\n "text": "a"\n}', "is one JSON object; expected an array of objects"),
        (
            "windows.jsonl",
            b'{"text": "a"}\n{"text": "It\x92s caf\xe9"}\n',
            "line 2: byte 0x92 at column 13 .* Windows-1252 it says",
        ),
        ("windows.txt", b"one\ntwo\ncaf\xe9\n", "line 3: byte 0xe9 at column 4 is not UTF-8"),
        ("nul.csv", b"prompt,completion\na,b\x00c\n", "line 2: a NUL byte at column 4"),
        ("nul.txt", b"a\n\x00", "line 2: a NUL byte at column 1"),
        ("wide.csv", b"prompt,completion\na,b\nc,d,e\n", "line 3 has 3 fields, the header 2"),
        ("open.csv", b'prompt,completion\na,"b\n', "is not CSV: unexpected end of data"),
        ("utf16.txt", "text".encode("utf-16"), "is UTF-16LE; .* iconv -f UTF-16LE"),
        ("cut.parquet", b"PAR1 and no more", "is not a readable parquet file"),
        ("empty.jsonl", b"", r"is empty \(0 bytes\); expected one JSON object a line"),
        ("blank.jsonl", b"\n \n", "holds no rows"),
        ("header.csv", b"prompt,completion\n", "holds no rows; expected a header line"),
        ("empty.json", b"[]", "holds no rows"),
        ("blank.txt", b" \n<|endoftext|>\n", "holds no rows"),
        ("data.xlsx", b"PK", "convert it to one of .jsonl, .json, .parquet, .csv, .txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said) as error:
        list(read_rows(tmp_path / name))
    assert name in str(error.value)


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DatasetError, match=r"trian.jsonl does not exist; did you mean 'train.jsonl'\?"):
        read_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DatasetError, match="nor does the directory"):
        read_rows(tmp_path / "no" / "train.jsonl")


def test_a_directory_is_refused_and_its_files_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DatasetError, match=r"is a directory; .* name one of its files: train\.jsonl"):
        read_rows(tmp_path)
