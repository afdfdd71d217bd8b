"""Where pages go that the budget does not hold: a file that no other program sees, or pinned memory beside a GPU."""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from weakref import finalize

import torch
from torch import Tensor

from quatro.format.errors import InputError, MachineError
from quatro.optim.layout import ALIGNED, Layout

Frame = dict[str, Tensor]
"""A page in memory: each part's numbers by its name."""
Wait = Callable[[], None]
Move = Callable[[int, list[memoryview], int], int]
"""os.preadv or os.pwritev."""
WORKERS = 2


class Store(ABC):
    """What keeps pages that are not in a frame. A page that was never put there is fresh, and nothing of it is read."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.kept: set[int] = set()
        self.bytes_read = self.bytes_written = 0

    def exchange(self, frame: Frame, leaving: int | None, entering: int | None) -> Wait:
        """Begin to write page `leaving` from the frame (None: it was not changed), then to fill it with `entering`; how to wait for that."""
        known = entering in self.kept
        if leaving is not None:
            self.kept.add(leaving)
            self.bytes_written += self.layout.page_bytes
        self.bytes_read += self.layout.page_bytes if known else 0
        return self._begin(frame, leaving, entering, known)

    @abstractmethod
    def _begin(self, frame: Frame, leaving: int | None, entering: int | None, known: bool) -> Wait: ...

    @abstractmethod
    def contiguous(self, part: str) -> Tensor:
        """All numbers of a part, of every page in order; pages in frames must have been written before."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""


class FileStore(Store):
    """A file without a name: nobody else opens, changes or truncates it, and the system removes it however the process ends.

    Each part has a region of its own, so that its numbers are contiguous. Read and written around the page cache where the parts of a
    page are multiples of 4 KiB and the file system allows it.
    """

    def __init__(self, layout: Layout, directory: Path) -> None:
        super().__init__(layout)
        self._regions: dict[str, int] = {}
        end = 0
        for part in layout.parts:
            self._regions[part.name] = end
            end += -(-layout.pages * part.nbytes(layout.elements) // ALIGNED) * ALIGNED
        self._size = end
        self._file = unnamed_file(directory, end)
        self._direct = _direct(self._file) if all(p.nbytes(layout.elements) % ALIGNED == 0 for p in layout.parts) else None
        self._workers = ThreadPoolExecutor(WORKERS, "quatro-pages")
        self._closing = finalize(self, _closed, [d for d in (self._direct, self._file) if d is not None])
        self._written: dict[int, Event] = {}
        """When the last write of a page was over: one worker may be asked for what another still writes."""

    def _begin(self, frame: Frame, leaving: int | None, entering: int | None, known: bool) -> Wait:
        before = None if entering is None else self._written.get(entering)
        over = Event()
        if leaving is not None:
            self._written[leaving] = over
        done: Future[None] = self._workers.submit(self._exchange, frame, leaving, over, entering if known else None, before)
        if entering is not None and not known:
            return partial(self._fresh_after, done, frame)
        return done.result

    def _fresh_after(self, done: "Future[None]", frame: Frame) -> None:
        done.result()
        make_fresh(self.layout, frame)

    def _exchange(self, frame: Frame, leaving: int | None, over: Event, entering: int | None, before: Event | None) -> None:
        try:
            if leaving is not None:
                self._move(os.pwritev, frame, leaving)
        finally:
            over.set()
        if entering is not None:
            if before is not None:
                before.wait()
            self._move(os.preadv, frame, entering)

    def _move(self, how: Move, frame: Frame, page: int) -> None:
        descriptor = self._file if self._direct is None else self._direct
        for part in self.layout.parts:
            memory = frame[part.name].view(torch.uint8).numpy().data
            begin = self._regions[part.name] + page * len(memory)
            transfer(how, descriptor, memory, begin, "optimizer states")
            if self._direct is None:
                os.posix_fadvise(descriptor, begin, len(memory), os.POSIX_FADV_DONTNEED)

    def contiguous(self, part: str) -> Tensor:
        """Mapped from the file: in memory only as far as somebody reads it."""
        found = next(p for p in self.layout.parts if p.name == part)
        count = found.count(self.layout.pages * self.layout.elements)
        whole = torch.from_file(f"/proc/self/fd/{self._file}", True, self._size, dtype=torch.uint8)
        begin = self._regions[part]
        return whole[begin : begin + count * found.dtype.itemsize].view(found.dtype)

    def close(self) -> None:
        """The file is gone with its last descriptor."""
        self._workers.shutdown(cancel_futures=True)
        self._closing()


class MemoryStore(Store):
    """Pages in main memory, pinned beside a GPU, whose copies run on a stream of their own."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        super().__init__(layout)
        on_gpu = device.type == "cuda"
        whole = layout.pages * layout.elements
        self._parts = {
            part.name: torch.full((part.count(whole),), part.fresh, dtype=part.dtype, pin_memory=on_gpu)
            for part in layout.parts
        }
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def _begin(self, frame: Frame, leaving: int | None, entering: int | None, known: bool) -> Wait:
        if self._stream is None:
            self._copy(frame, leaving, entering)
            return lambda: None
        self._stream.wait_stream(torch.cuda.current_stream())  # the page that leaves may be written still
        with torch.cuda.stream(self._stream):
            self._copy(frame, leaving, entering)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        return lambda: torch.cuda.current_stream().wait_event(arrived)

    def _copy(self, frame: Frame, leaving: int | None, entering: int | None) -> None:
        for name, numbers in frame.items():
            if leaving is not None:
                self._page(name, leaving, len(numbers)).copy_(numbers, non_blocking=True)
            if entering is not None:
                numbers.copy_(self._page(name, entering, len(numbers)), non_blocking=True)

    def _page(self, name: str, page: int, count: int) -> Tensor:
        return self._parts[name][page * count : (page + 1) * count]

    def contiguous(self, part: str) -> Tensor:
        """The memory itself."""
        if self._stream is not None:
            self._stream.synchronize()
        return self._parts[part]

    def close(self) -> None:
        """Memory goes with the last tensor on it."""
        self._parts = {}


def transfer(how: Move, descriptor: int, memory: memoryview, begin: int, what: str) -> None:
    """All of the memory to or from a file of paged `what`, from a byte on. Raises MachineError where the file fails or ends."""
    done = 0
    while done < len(memory):
        try:
            moved = how(descriptor, [memory[done:]], begin + done)
        except OSError as error:
            raise MachineError(
                f"the file of paged {what} failed ({error.strerror or error}); the last checkpoint is whole: check the disk and go on from "
                "there"
            ) from error
        if moved == 0:
            raise MachineError(f"the file of paged {what} was cut short; go on from the last checkpoint")
        done += moved


def make_fresh(layout: Layout, frame: Frame) -> None:
    """What states are before the first step."""
    for part in layout.parts:
        frame[part.name].fill_(part.fresh)


def empty_frame(layout: Layout, device: torch.device, for_disk: bool) -> Frame:
    """Memory for a page; for a disk each part begins at a multiple of 4 KiB."""
    if for_disk:
        return {part.name: _aligned(part.nbytes(layout.elements)).view(part.dtype) for part in layout.parts}
    return {part.name: torch.empty(part.count(layout.elements), dtype=part.dtype, device=device) for part in layout.parts}


def _aligned(nbytes: int) -> Tensor:
    memory = torch.empty(nbytes + ALIGNED, dtype=torch.uint8)
    skipped = -memory.data_ptr() % ALIGNED
    return memory[skipped : skipped + nbytes]


def unnamed_file(directory: Path, size: int) -> int:
    """A descriptor of a file of `size` bytes without a name. Raises MachineError where there is no room or no right to write."""
    try:
        descriptor = _opened(directory)
    except OSError as error:
        raise MachineError(
            f"pages cannot be written in {directory}: {error.strerror or error}; name another directory"
        ) from error
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        free = shutil.disk_usage(directory).free
        raise MachineError(
            f"pages take {size:,} bytes in {directory}, which has {free:,} left ({error.strerror}); make room, name "
            "another directory, or raise the budget"
        ) from error
    return descriptor


def _opened(directory: Path) -> int:
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError:
            if not directory.is_dir():
                raise
    descriptor, name = tempfile.mkstemp(prefix=".quatro-pages-", dir=directory)
    os.unlink(name)
    return descriptor


def _direct(descriptor: int) -> int | None:
    """A second descriptor of the file that goes around the page cache, or None where the file system has no such thing."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT)
    except (OSError, AttributeError):
        return None


def _closed(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def checked_directory(directory: str | Path | None) -> Path:
    """Where page files go: the one named, else the system's for temporary files."""
    found = Path(directory or tempfile.gettempdir()).expanduser()
    if not found.is_dir():
        raise InputError(f"{found} is not a directory; paged optimizer states need one that can be written to")
    return found
