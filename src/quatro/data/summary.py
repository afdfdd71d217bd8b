"""What became of a file's rows: how many were used, how many dropped and why; a value to print or to write."""

from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows left out for one reason. numbers: their places in the file, the first ten."""

    reason: str
    count: int
    numbers: tuple[int, ...]

    def sentence(self, unit: str) -> str:
        """E.g. `3 dropped (lines 2, 7, 9): output is empty`."""
        more = ", …" if self.count > len(self.numbers) else ""
        plural = "s" if self.count > 1 else ""
        return f"{self.count:,} dropped ({unit}{plural} {', '.join(map(str, self.numbers))}{more}): {self.reason}"


@dataclass(slots=True)
class DropCounter:
    """Counts dropped rows by reason while a file is read."""

    found: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def add(self, number: int, reason: str) -> None:
        """Count the row at this place."""
        count, numbers = self.found.get(reason, (0, []))
        self.found[reason] = (count + 1, numbers if len(numbers) >= SHOWN else [*numbers, number])

    def dropped(self) -> tuple[Dropped, ...]:
        """Most frequent reason first."""
        ordered = sorted(self.found.items(), key=lambda item: -item[1][0])
        return tuple(Dropped(reason, count, tuple(numbers)) for reason, (count, numbers) in ordered)


@dataclass(frozen=True, slots=True)
class FileSummary:
    """One file: rows read and used, sequences made of them, tokens, tokens with a loss, the longest sequence, rows dropped."""

    path: str
    unit: str
    format: str
    template: str | None
    rows: int
    used: int
    sequences: int
    tokens: int
    learned_tokens: int
    longest: int
    dropped: tuple[Dropped, ...]

    def lines(self) -> list[str]:
        """Sentences for people."""
        shown = f", template: {self.template}" if self.template else ""
        cut = f" as {self.sequences:,} sequences" if self.sequences != self.used else ""
        first = f"{self.path}: format {self.format}{shown}; {self.used:,} of {self.rows:,} rows used{cut}"
        share = 100 * self.learned_tokens / max(1, self.tokens)
        second = (
            f"{self.tokens:,} tokens, {self.learned_tokens:,} ({share:.0f} %) with a loss; the longest has {self.longest:,}"
        )
        return [first, second, *(drop.sentence(self.unit) for drop in self.dropped)]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What is trained on and what is held out. eval: None if held-out rows come from the training file, or there are none."""

    train: FileSummary
    eval: FileSummary | None
    train_sequences: int
    eval_sequences: int
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Sentences for people."""
        held = self.eval.lines() if self.eval else []
        counts = f"{self.train_sequences:,} sequences to train on, {self.eval_sequences:,} held out"
        return [*self.train.lines(), *held, counts, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)
