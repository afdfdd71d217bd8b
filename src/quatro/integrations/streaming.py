"""Tensors on their way from the disk into a model: one ahead of the one that is being worked on, and counted."""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from torch import Tensor

from quatro.integrations.checkpoint import DTYPES, LazyTensor
from quatro.integrations.pages import LentPages, Memory, own_pages

Progress = Callable[[int, int], None]
"""Called with the bytes that were read so far, and all there are to read."""


class Stream:
    """The tensors of a checkpoint as transformers takes them, which is in natural order of their names wherever none are joined.

    ahead: while one is quantized the next is read, so that two are in memory at most; only while that order holds, or what was read
    would be read again. As a context: the reading thread ends with it.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], progress: Progress, ahead: bool) -> None:
        self.tensors, self._progress = tensors, progress
        self._read, self._all = 0, sum(map(nbytes, tensors.values()))
        order = sorted(tensors, key=_natural)
        self._following = dict(zip(["", *order], order, strict=False)) if ahead else {}
        self._last = ""
        self._reader, self._lock = ThreadPoolExecutor(1, "quatro-read"), Lock()
        self._memory = LentPages(2 * max(map(nbytes, tensors.values()), default=0)) if ahead else own_pages
        self._waiting: dict[str, Future[Tensor]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._waiting.clear()

    def state_dict(self) -> dict[str, LazyTensor]:
        """What transformers' loader takes as a state dict: nothing is read before it is asked for."""
        return {name: _OnItsWay(name, tensor, self) for name, tensor in self.tensors.items()}

    def take(self, name: str) -> Tensor:
        """A tensor's numbers, and the order to read the next one."""
        with self._lock:
            coming = self._waiting.pop(name, None)
            self._waiting.clear()
        tensor = self.tensors[name].read(self._memory) if coming is None else coming.result()
        with self._lock:
            self._read += tensor.nbytes
            self._progress(self._read, self._all)
            self._look_ahead(name)
        return tensor

    def _look_ahead(self, name: str) -> None:
        following = self._following.get(name)
        if following is not None and self._following.get(self._last) == name:
            self._waiting[following] = self._reader.submit(self.tensors[following].read, self._memory)
        self._last = name


class _OnItsWay(LazyTensor):
    def __init__(self, name: str, tensor: LazyTensor, stream: Stream) -> None:
        self.name, self.dtype, self.shape, self._stream = name, tensor.dtype, tensor.shape, stream

    def read(self, memory: Memory = own_pages) -> Tensor:
        return self._stream.take(self.name)


def nbytes(tensor: LazyTensor) -> int:
    """Of the tensor once it is read."""
    count = 1
    for size in tensor.shape:
        count *= size
    return count * DTYPES[tensor.dtype].itemsize


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by value: layers.2 before layers.10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
