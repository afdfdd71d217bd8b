"""Which sequences share a row? Packing fills rows of max_length; positions restart, so that documents stay apart."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quatro.data.tokens import Item, TokenRows


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indexes whose lengths together are at most capacity: best fit, longest first, equal lengths in their order."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[index], -1))
        if at == len(room):
            bins.append([])
            left, which = capacity, len(bins) - 1
        else:
            left, which = room.pop(at)
        bins[which].append(index)
        insort(room, (left - int(lengths[index]), which))
    return bins


@dataclass(frozen=True, slots=True)
class PackedRows:
    """A map-style dataset: item i is {"input_ids", "labels", "position_ids"} of several sequences, one behind the other.

    Every sequence's first label is -100 already, so nothing is predicted across a border.
    """

    sequences: TokenRows
    bins: list[list[int]]

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Item:
        parts = [self.sequences[i] for i in self.bins[index]]
        packed = {name: np.concatenate([part[name] for part in parts]) for name in ("input_ids", "labels")}
        return {**packed, "position_ids": np.concatenate([np.arange(len(part["input_ids"])) for part in parts])}


def packed(sequences: TokenRows, max_length: int) -> PackedRows:
    """The sequences in as few rows of max_length tokens as best fit finds."""
    return PackedRows(sequences, pack(sequences.lengths.tolist(), max_length))
