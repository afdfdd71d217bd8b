"""Which pages are in memory? A fixed number of frames, least recently used first out, the next ones on their way in."""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from quatro.optim.layout import Layout
from quatro.optim.stores import FileStore, Frame, Store, Wait, empty_frame, make_fresh

AHEAD = 4
"""At most so many pages are on their way in while one is worked on."""


@dataclass(frozen=True)
class Statistics:
    """Bytes that states take in memory and in all, pages that had to go, bytes that were moved, and seconds waited for them."""

    resident: int
    total: int
    evicted: int
    bytes_read: int
    bytes_written: int
    seconds_waited: float


@dataclass(eq=False)
class _Held:
    numbers: Frame
    changed: bool = False
    wait: Wait | None = None


class Pool:
    """Pages of a layout in at most `frames` frames; without a store all of them are there."""

    def __init__(self, layout: Layout, frames: int, device: torch.device, store: Store | None) -> None:
        self.layout, self.store = layout, store
        self._free = [
            _Held(empty_frame(layout, device, isinstance(store, FileStore))) for _ in range(min(frames, layout.pages))
        ]
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._evicted, self._waited = 0, 0.0

    def walk(self, order: Sequence[int], changes: bool = True) -> Iterator[tuple[int, Frame]]:
        """Each page of the order in turn; its frame is valid until the next one is asked for. changes: whether it is written to."""
        ahead = min(AHEAD, len(self._held) + len(self._free) - 1)
        for position, page in enumerate(order):
            coming = order[position : position + 1 + ahead]
            for wanted in coming:
                self._fetch(wanted, coming)
            held = self._held[page]
            self._arrive(held)
            self._held.move_to_end(page)
            held.changed |= changes
            yield page, held.numbers

    def flush(self) -> None:
        """Write what was changed, so that the store has every page; frames stay."""
        for page, held in self._held.items():
            self._arrive(held)
            if held.changed and self.store is not None:
                held.wait, held.changed = self.store.exchange(held.numbers, page, None), False
        for held in self._held.values():
            self._arrive(held)

    @property
    def statistics(self) -> Statistics:
        """So far."""
        store = self.store
        frames = len(self._held) + len(self._free)
        moved = (store.bytes_read, store.bytes_written) if store else (0, 0)
        return Statistics(frames * self.layout.page_bytes, self.layout.nbytes, self._evicted, *moved, self._waited)

    def close(self) -> None:
        """Give back the store."""
        if self.store is not None:
            self.store.close()

    def _fetch(self, page: int, coming: Sequence[int]) -> None:
        """Begin to bring a page in, unless it is there; the least recently used that is not wanted soon makes room."""
        if page in self._held:
            return
        leaving = None if self._free else next((old for old in self._held if old not in coming), None)
        if leaving is None and not self._free:
            return  # every frame is wanted soon: this one comes later
        held = self._free.pop() if leaving is None else self._held.pop(leaving)
        self._arrive(held)
        if self.store is None:
            make_fresh(self.layout, held.numbers)
        else:
            self._evicted += leaving is not None
            held.wait = self.store.exchange(held.numbers, leaving if held.changed else None, page)
        held.changed = False
        self._held[page] = held

    def _arrive(self, held: _Held) -> None:
        if held.wait is None:
            return
        started = time.perf_counter()
        held.wait()
        held.wait = None
        self._waited += time.perf_counter() - started
