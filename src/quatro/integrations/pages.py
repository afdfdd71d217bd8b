"""Memory that tensors are read into. Whole pages of the system's: what an allocator keeps for later would be resident beside a model."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 20
"""Bytes from which a tensor has pages of its own."""
Memory = Callable[[int], Tensor]
"""Gives so many uninitialized bytes, uint8."""


def own_pages(count: int) -> Tensor:
    """Bytes that go back to the system the moment the last tensor on them is let go."""
    return torch.empty(count, dtype=torch.uint8) if count < LARGE else _on(_map(count))


class LentPages:
    """Pages that are lent again when nothing stands on them any more: pages that were written before are faster than fresh ones.

    Only for tensors of the same size, so that a tensor that stays holds no more than its own bytes; `most` bytes wait at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._lent: list[mmap.mmap] = []

    def __call__(self, count: int) -> Tensor:
        """uint8 (count,), uninitialized."""
        if count < LARGE:
            return torch.empty(count, dtype=torch.uint8)
        with self._lock:  # until a tensor stands on them, another thread would find the same pages free
            free = [pages for pages in self._lent if _is_free(pages)]
            found = next((pages for pages in free if len(pages) == count), None)
            if found is None:
                found = _map(count)
                self._forget(free, count)
                self._lent.append(found)
            return _on(found)

    def _forget(self, free: list[mmap.mmap], coming: int) -> None:
        """Give back what waits beyond `most`, the largest first, and stop following what will not come back."""
        waiting = sorted(free, key=len)
        while waiting and sum(map(len, waiting)) + coming > self._most:
            self._lent.remove(waiting.pop())


def give_back() -> None:
    """Have the C library return memory that it keeps between large temporaries; where it has no word for that, nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _map(count: int) -> mmap.mmap:
    pages = mmap.mmap(-1, count)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)  # a hint
    return pages


def _on(pages: mmap.mmap) -> Tensor:
    """A tensor on pages; as long as it or a view of it lives, they are exported (numpy keeps that, torch.frombuffer does not)."""
    return torch.from_numpy(np.frombuffer(pages, dtype=np.uint8))


def _is_free(pages: mmap.mmap) -> bool:
    """Whether no tensor stands on pages: Python resizes a mapping, be it to its own size, only if nothing is exported."""
    try:
        pages.resize(len(pages))
    except BufferError:
        return False
    except SystemError:  # exports were looked at first; this system cannot resize
        return True
    return True
