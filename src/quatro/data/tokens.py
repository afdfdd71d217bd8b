"""Where encoded rows are kept: one flat array of tokens, five bytes each, however many rows there are."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quatro.data.encode import IGNORED, Encoded

Item = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """A map-style dataset: item i is {"input_ids", "labels"}, int64 of one length.

    ids: int32, all rows one behind the other. learned: bool, the same length. ends: int64, where each row ends. rows: which of
    them this view shows, in order.
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        span = self._span(int(self.rows[index]))
        ids = self.ids[span].astype(np.int64)
        return {"input_ids": ids, "labels": np.where(self.learned[span], ids, IGNORED)}

    def _span(self, row: int) -> slice:
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.ends, prepend=0)[self.rows]

    @property
    def learned_tokens(self) -> int:
        """Tokens that the loss counts, of all rows together."""
        return sum(int(self.learned[self._span(int(row))].sum()) for row in self.rows)

    def only(self, rows: Sequence[int]) -> "TokenRows":
        """A view of some rows, on the same tokens."""
        return TokenRows(self.ids, self.learned, self.ends, np.asarray(rows, dtype=np.int64))


@dataclass(slots=True)
class TokenRowsBuilder:
    """Collects rows one by one."""

    ids: "array[int]" = field(default_factory=lambda: array("i"))
    learned: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, encoded: Encoded) -> None:
        """Append one row."""
        self.ids.extend(encoded.input_ids)
        self.learned.extend(label != IGNORED for label in encoded.labels)
        self.ends.append(len(self.ids))

    def build(self) -> TokenRows:
        """All rows, without a copy of their tokens."""
        ends = np.frombuffer(self.ends, dtype=np.int64) if self.ends else np.empty(0, np.int64)
        ids = np.frombuffer(self.ids, dtype=np.int32) if self.ids else np.empty(0, np.int32)
        return TokenRows(ids, np.frombuffer(self.learned, dtype=np.bool_), ends, np.arange(len(ends)))


def token_rows(encoded: Iterable[Encoded]) -> TokenRows:
    """Encoded rows as a dataset."""
    builder = TokenRowsBuilder()
    for row in encoded:
        builder.add(row)
    return builder.build()
