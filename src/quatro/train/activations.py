"""Where do the inputs of checkpointed layers wait for the backward pass? In memory within a budget, the oldest of them in a file.

transformers has the same from a GPU to main memory (`gradient_checkpointing_kwargs: {offload: true}`); from main memory to a disk it
has nothing. Layers need their inputs in reverse, so the oldest are away longest, and come back while later layers are computed again.
"""

import os
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, finalize

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from quatro.format.errors import RecipeError
from quatro.format.sizes import parse_size
from quatro.optim.stores import transfer, unnamed_file
from quatro.train.recipe import Recipe

LEAST = 1 << 16
"""Bytes below which a tensor is not worth a place in the file."""
ALIGNED = 4096


@dataclass
class Moved:
    """Bytes that went to the file and came back, the most that were in memory, and seconds waited."""

    bytes_written: int = 0
    bytes_read: int = 0
    most_resident: int = 0
    seconds_waited: float = 0.0


class ActivationPages:
    """Saved tensors of a forward pass, at most `budget` bytes of them in memory. Values come back to the bit.

    model: whose parameters and buffers stay where they are. directory: where the file is; it has no name there, and is gone with the process. Raises MachineError where it cannot be written.
    """

    def __init__(self, budget: int, directory: Path, model: nn.Module) -> None:
        self.budget, self.moved = budget, Moved()
        self._own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._file = unnamed_file(directory, 0)
        self._end, self._free = 0, dict[int, list[int]]()
        self._here: OrderedDict[int, _Saved] = OrderedDict()
        self._leaving: OrderedDict[int, _Saved] = OrderedDict()
        self._away: OrderedDict[int, _Saved] = OrderedDict()
        self._known: WeakValueDictionary[tuple[Any, ...], _Handle] = WeakValueDictionary()
        self._worker = ThreadPoolExecutor(1, "quatro-activations")
        self._closing = finalize(self, os.close, self._file)

    def hooks(self) -> saved_tensors_hooks:
        """A context for the forward pass; the backward pass needs none."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def close(self) -> None:
        """The file is gone with its descriptor."""
        self._worker.shutdown()
        self._closing()

    @property
    def resident(self) -> int:
        """Bytes in memory now, those on their way out included."""
        return sum(saved.nbytes for saved in (*self._here.values(), *self._leaving.values()))

    def _pack(self, tensor: Tensor) -> Any:
        if not _is_pageable(tensor) or tensor.untyped_storage().data_ptr() in self._own:
            return tensor
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        handle = self._known.get(key)
        if handle is None or handle.saved.tensor is None:
            handle = self._known[key] = _Handle(_Saved(tensor), self)
            self._here[id(handle.saved)] = handle.saved
            self._make_room()
            self.moved.most_resident = max(self.moved.most_resident, self.resident)
        return handle

    def _unpack(self, handle: Any) -> Tensor:
        if not isinstance(handle, _Handle):
            plain: Tensor = handle
            return plain
        saved = handle.saved
        found = saved.tensor if saved.tensor is not None else self._back(saved)
        earlier = next((away for away in reversed(self._away.values()) if away is not saved), None)
        if earlier is not None and earlier.coming is None:
            earlier.coming = self._worker.submit(self._read, earlier)
        return found

    def _make_room(self) -> None:
        """Send the oldest away until the rest fits; wait for those on their way only as far as memory asks for it."""
        while self._here and sum(saved.nbytes for saved in self._here.values()) > self.budget // 2:
            key, oldest = self._here.popitem(last=False)
            oldest.place = self._place(oldest.nbytes)
            self._leaving[key] = oldest
            oldest.going = self._worker.submit(self._write, oldest)
            self.moved.bytes_written += oldest.nbytes
        while self._leaving and self.resident > self.budget:
            self._gone(next(iter(self._leaving)))

    def _gone(self, key: int) -> None:
        saved = self._leaving.pop(key)
        self._wait(saved.going)
        saved.tensor = saved.going = None
        self._away[key] = saved

    def _back(self, saved: "_Saved") -> Tensor:
        coming = saved.coming or self._worker.submit(self._read, saved)
        found: Tensor = self._wait(coming)
        self.moved.bytes_read += saved.nbytes
        saved.coming = None
        return found

    def _wait(self, future: "Future[Any] | None") -> Any:
        started = time.perf_counter()
        found = None if future is None else future.result()
        self.moved.seconds_waited += time.perf_counter() - started
        return found

    def _place(self, nbytes: int) -> int:
        size = -(-nbytes // ALIGNED) * ALIGNED
        if self._free.get(size):
            return self._free[size].pop()
        self._end += size
        return self._end - size

    def forget(self, saved: "_Saved") -> None:
        """Of a tensor that nobody needs any more: its place is free once nothing is written there."""
        for held in (self._here, self._leaving, self._away):
            held.pop(id(saved), None)
        place = saved.place
        if place is None:
            return
        free = self._free.setdefault(-(-saved.nbytes // ALIGNED) * ALIGNED, [])
        if saved.going is None:
            free.append(place)
        else:
            saved.going.add_done_callback(lambda _: free.append(place))

    def _write(self, saved: "_Saved") -> None:
        transfer(os.pwritev, self._file, saved.bytes(), saved.place or 0, "activations")

    def _read(self, saved: "_Saved") -> Tensor:
        memory = torch.empty(saved.shape, dtype=saved.dtype)
        transfer(os.preadv, self._file, memory.view(-1).view(torch.uint8).numpy().data, saved.place or 0, "activations")
        return memory


def activation_pages(recipe: Recipe, model: nn.Module, directory: Path) -> ActivationPages | None:
    """What a recipe's `activations:` asks for. Raises RecipeError on a GPU, where transformers has it."""
    if recipe.activations is None:
        return None
    if next(model.parameters()).device.type != "cpu":
        raise RecipeError(
            "activations: (budget) pages from main memory to a disk; on a GPU set train.gradient_checkpointing_kwargs to {offload: true}, "
            "which pages to main memory"
        )
    return ActivationPages(parse_size(recipe.activations.budget), directory, model)


class _Saved:
    """A tensor that waits: here, on its way to the file, or there."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor.detach()
        self.shape, self.dtype, self.nbytes = tensor.shape, tensor.dtype, tensor.numel() * tensor.itemsize
        self.place: int | None = None
        self.going: Future[Any] | None = None
        self.coming: Future[Any] | None = None

    def bytes(self) -> memoryview:
        assert self.tensor is not None
        return self.tensor.contiguous().view(-1).view(torch.uint8).numpy().data


class _Handle:
    """What autograd holds in a tensor's place; when it lets go, the tensor is forgotten."""

    def __init__(self, saved: _Saved, pages: ActivationPages) -> None:
        self.saved, self._pages = saved, pages

    def __del__(self) -> None:
        self._pages.forget(self.saved)


def _is_pageable(tensor: Tensor) -> bool:
    """Small tensors stay where they are, and what is not in main memory."""
    large = tensor.numel() * tensor.itemsize >= LEAST
    return large and tensor.device.type == "cpu" and tensor.layout is torch.strided
