"""Where does each parameter's state lie? All states end to end, cut into pages of equal size.

A page covers the same elements of every state: of AdamW in 32 bits a run of first and a run of second moments. A parameter begins
at a multiple of 256 elements, so that blocks of 8-bit states are its own, and small parameters share pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quatro.kernels.updates import STATE_BLOCK

ALIGNED = 4096
"""Bytes that parts of a page are a multiple of where pages are large: what a disk is read and written in."""


@dataclass(frozen=True)
class Part:
    """One of the things that are kept of every element. every: elements that share one number. fresh: its value before the first step."""

    name: str
    dtype: torch.dtype
    every: int = 1
    fresh: int = 0

    def count(self, elements: int) -> int:
        """Numbers of it for so many elements."""
        return -(-elements // self.every)

    def nbytes(self, elements: int) -> int:
        """Bytes of it for so many elements."""
        return self.count(elements) * self.dtype.itemsize


@dataclass(frozen=True)
class Segment:
    """`count` elements of parameter `index` from `begin` on, which lie in their page from `offset` on."""

    index: int
    begin: int
    offset: int
    count: int


@dataclass(frozen=True)
class Layout:
    """Places of all parameters: starts[i] is the first element of parameter i, sizes[i] its elements, elements those of a page."""

    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    elements: int
    pages: int

    @property
    def page_bytes(self) -> int:
        """Of all parts of a page."""
        return bytes_of(self.parts, self.elements)

    @property
    def nbytes(self) -> int:
        """Of all pages."""
        return self.pages * self.page_bytes

    def segments(self) -> list[list[Segment]]:
        """Of each page, in the order of the parameters."""
        found: list[list[Segment]] = [[] for _ in range(self.pages)]
        for index, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            begin = 0
            while begin < size:
                page, offset = divmod(start + begin, self.elements)
                count = min(size - begin, self.elements - offset)
                found[page].append(Segment(index, begin, offset, count))
                begin += count
        return found


def laid_out(parts: Sequence[Part], sizes: Sequence[int], page_bytes: int, budget: int) -> Layout:
    """Pages of at most page_bytes; a single one where all states fit into the budget."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // STATE_BLOCK) * STATE_BLOCK
    elements = max(end, STATE_BLOCK)
    if bytes_of(parts, elements) > budget:
        elements = _elements_of_a_page(parts, page_bytes)
    return Layout(tuple(parts), tuple(sizes), tuple(starts), elements, max(1, -(-end // elements)))


def bytes_of(parts: Sequence[Part], elements: int) -> int:
    """Of all parts of so many elements."""
    return sum(part.nbytes(elements) for part in parts)


def _elements_of_a_page(parts: Sequence[Part], page_bytes: int) -> int:
    """As many as fit, in steps whose every part is a multiple of ALIGNED if the page is large enough for one."""
    step = max(ALIGNED * part.every // part.dtype.itemsize for part in parts)
    least = STATE_BLOCK if bytes_of(parts, step) > page_bytes else step
    return max(least, page_bytes * least // bytes_of(parts, least) // least * least)
