"""Checkpoints that are broken or lie: each is refused by one sentence, before anything of it is believed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quatro.format.errors import CheckpointError
from quatro.integrations.checkpoint import Checkpoint, tensors_of


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header, whatever it says of itself."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(shape: Any = (2,), dtype: Any = "F32", offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)}


HEADERS = {
    "no JSON": (b"{", {}),
    "no text": (b"\xff\xfe{}", {}),
    "no object": ([1], {}),
    "a list as an entry": ({"a": [1]}, {}),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, {}),
    "an unknown dtype": ({"a": entry(dtype="F3")}, {}),
    "a dtype that is no text": ({"a": entry(dtype=["F32"])}, {}),
    "a negative size": ({"a": entry((-2,))}, {}),
    "a size that is no integer": ({"a": entry((2.0,))}, {}),
    "a size that is true": ({"a": entry((True,), offsets=(0, 4))}, {}),
    "a shape that is no list": ({"a": entry("ab")}, {}),
    "sizes whose product is not the bytes": ({"a": entry((3,))}, {}),
    "sizes whose product overflows": ({"a": entry((1 << 40, 1 << 40))}, {}),
    "bytes beyond the file": ({"a": entry((4,), offsets=(0, 16))}, {}),
    "an end before its beginning": ({"a": entry((2,), offsets=(8, 0))}, {}),
    "shared bytes": ({"a": entry(), "b": entry(offsets=(0, 8))}, {}),
    "a name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', {}),
    "metadata that is no object": ({"__metadata__": 3, "a": entry()}, {}),
    "JSON too deep": (b"[" * 100_000, {}),
    "a header longer than the file": ({"a": entry()}, {"length": 1 << 20}),
    "a header of 2^63 bytes": ({"a": entry()}, {"length": (1 << 63) + 7}),
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, what: str) -> None:
    header, options = HEADERS[what]
    with pytest.raises(CheckpointError) as caught:
        tensors_of(written(tmp_path / "model.safetensors", header, bytes(8), **options))
    assert "\n" not in str(caught.value)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 8, 30])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cut short or corrupted"):
        tensors_of(file)


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, file)
    found = tensors_of(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="ends inside a"):
        found["a"].read()


def indexed(directory: Path, content: Any) -> Path:
    save_file({"a": torch.ones(2)}, directory / "one.safetensors")
    raw = content if isinstance(content, str) else json.dumps(content)
    (directory / "model.safetensors.index.json").write_text(raw)
    return directory


@pytest.mark.parametrize(
    ("content", "letter"),
    [
        ("{", "not readable JSON"),
        ([], "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": 3}}, "no weight_map"),
        ({"weight_map": {"a": "../one.safetensors"}}, "not a file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not a file beside it"),
        ({"weight_map": {"a": ".."}}, "not a file beside it"),
        ({"weight_map": {"a": "two.safetensors"}}, "two.safetensors is missing"),
        ({"weight_map": {"b": "one.safetensors"}}, "does not hold it"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, content: Any, letter: str) -> None:
    with pytest.raises(CheckpointError, match=letter) as caught:
        Checkpoint(indexed(tmp_path, content))
    assert "\n" not in str(caught.value)
