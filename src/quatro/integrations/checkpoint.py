"""Which tensors does a checkpoint hold? Safetensors files, one or many, checked before a tensor is believed; read by position.

Format: https://github.com/huggingface/safetensors. Nothing is mapped: what was read and let go leaves no page behind.
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatro.format.errors import CheckpointError, MachineError
from quatro.integrations.pages import Memory, own_pages

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
READ_AT_A_TIME = 64 << 20
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class LazyTensor(ABC):
    """A tensor that is not in memory yet; answers as safetensors' own slices do, which is what transformers asks for."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """dtype by the name that safetensors has for it."""

    @abstractmethod
    def read(self, memory: Memory = own_pages) -> Tensor:
        """Its numbers, in memory that `memory` gives where they are read from a file."""

    def get_shape(self) -> list[int]:
        """As safetensors names it."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """As safetensors names it."""
        return self.dtype

    def __getitem__(self, index: Any) -> Tensor:
        """[...] is all of it."""
        return self.read()[index]


@dataclass(frozen=True)
class StoredTensor(LazyTensor):
    """A tensor where it lies: `begin` is counted from the start of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int

    def read(self, memory: Memory = own_pages) -> Tensor:
        """Its numbers. Raises CheckpointError if the file has become shorter, MachineError if it cannot be read."""
        return self._bytes(self.begin, memory(self.nbytes)).view(DTYPES[self.dtype]).view(self.shape)

    def middle(self, count: int) -> Tensor:
        """(at most count,) of its numbers, from its middle; no more than they are read."""
        size = DTYPES[self.dtype].itemsize
        whole = self.nbytes // size
        taken = min(count, whole)
        begin = self.begin + (whole - taken) // 2 * size
        return self._bytes(begin, torch.empty(taken * size, dtype=torch.uint8, device="cpu")).view(DTYPES[self.dtype])

    def _bytes(self, begin: int, memory: Tensor) -> Tensor:
        """The memory, filled with what the file has from there on."""
        try:
            with self.file.open("rb", buffering=0) as file:
                _fill(file.fileno(), memoryview(memory.numpy()), begin, self)
        except OSError as error:
            raise MachineError(f"could not read {self.file}: {error.strerror or error}") from error
        return memory


@dataclass(frozen=True)
class ComputedTensor(LazyTensor):
    """A tensor that is made of others when it is asked for."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    compute: Callable[[], Tensor]

    def read(self, memory: Memory = own_pages) -> Tensor:
        """What `compute` gives."""
        return self.compute()


class Checkpoint(Mapping[str, StoredTensor]):
    """The tensors of a directory by name. Raises CheckpointError for files that are missing, cut short, corrupted or lie."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        index = self.directory / INDEX
        self._tensors = _of_index(index) if index.is_file() else tensors_of(self.directory / SINGLE)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name; only its header is read."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; download the checkpoint again, or name the directory that holds all its files"
        )
    size = path.stat().st_size
    header, start = _header(path, size)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(_broken(path, "its __metadata__ is no object"))
    found = {name: _entry(path, name, entry, start, size) for name, entry in header.items()}
    _check_apart(path, list(found.values()))
    return found


def _of_index(index: Path) -> dict[str, StoredTensor]:
    """The tensors that an index names, each in its shard."""
    placed = _weight_map(index)
    shards = {file: tensors_of(index.parent / file) for file in dict.fromkeys(placed.values())}
    for name, file in placed.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"{index.name} says that {name} is in {file}, which does not hold it; the files are of different checkpoints: "
                "download all of them again"
            )
    return {name: shards[file][name] for name, file in placed.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{index} is not readable JSON: {error}; download it again") from error
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files; download it again")
    for file in placed.values():
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index} names {file!r}, which is not a file beside it; do not use this checkpoint")
    return placed


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """(the header, where the tensors begin)."""
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise CheckpointError(_broken(path, f"its header should take {length} bytes of {size}"))
        if length > LONGEST_HEADER:
            raise CheckpointError(_broken(path, f"its header takes {length} bytes; {LONGEST_HEADER} is the most there may be"))
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_broken(path, f"its header is no JSON ({type(error).__name__})")) from error
    if not isinstance(header, dict):
        raise CheckpointError(_broken(path, "its header is no object"))
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _entry(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(_broken(path, f"{name} has no dtype, shape and data_offsets")) from None
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in numbers):
        raise CheckpointError(_broken(path, f"{name} has a shape or an offset that is no natural number"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path.name}: {name} is stored as {dtype!r}, which quatro does not read; it reads {', '.join(DTYPES)}"
        )
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize or start + end > size:
        raise CheckpointError(
            _broken(path, f"{name} should be {list(shape)} of {dtype}, at bytes {begin} to {end} of {size - start}")
        )
    return StoredTensor(name, path, dtype, shape, start + begin, end - begin)


def _check_apart(path: Path, tensors: list[StoredTensor]) -> None:
    placed = sorted((tensor for tensor in tensors if tensor.nbytes), key=lambda tensor: tensor.begin)
    for first, second in zip(placed, placed[1:], strict=False):
        if first.begin + first.nbytes > second.begin:
            raise CheckpointError(_broken(path, f"{first.name} and {second.name} share bytes"))


def _broken(path: Path, what: str) -> str:
    return f"{path} is cut short or corrupted: {what}; download it again"


def _fill(descriptor: int, memory: memoryview, begin: int, tensor: StoredTensor) -> None:
    done = 0
    while done < len(memory):
        part = memory[done : done + READ_AT_A_TIME]
        count = os.preadv(descriptor, [part], begin + done)
        if count == 0:
            raise CheckpointError(_broken(tensor.file, f"it ends inside {tensor.name}"))
        done += count
