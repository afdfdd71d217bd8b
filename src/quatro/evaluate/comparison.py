"""A base beside its adapter, as a value: what each lost, what each answered, and who was right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quatro.evaluate.facts import fact_share, states


@dataclass(frozen=True)
class Row:
    """One question with both answers. fact: what a right answer contains; None for an open question."""

    question: str
    base_answer: str
    adapter_answer: str
    fact: str | None = None

    @property
    def base_right(self) -> bool | None:
        """Whether the base states the fact; None for an open question."""
        return None if self.fact is None else states(self.base_answer, self.fact)

    @property
    def adapter_right(self) -> bool | None:
        """Whether the adapter states the fact; None for an open question."""
        return None if self.fact is None else states(self.adapter_answer, self.fact)


@dataclass(frozen=True)
class Comparison:
    """All that `compare` found. Losses are nats per answer token of the held-out rows; None where there were none."""

    rows: tuple[Row, ...]
    base_loss: float | None = None
    adapter_loss: float | None = None
    tokens: int = 0

    @property
    def base_share(self) -> float | None:
        """The share of questions with a fact that the base answers rightly."""
        return fact_share([row.base_answer for row in self.rows], [row.fact for row in self.rows])

    @property
    def adapter_share(self) -> float | None:
        """The share of questions with a fact that the adapter answers rightly."""
        return fact_share([row.adapter_answer for row in self.rows], [row.fact for row in self.rows])

    @property
    def facts(self) -> int:
        """How many questions have a fact."""
        return sum(row.fact is not None for row in self.rows)

    def sample(self, count: int) -> tuple[Row, ...]:
        """`count` rows at equal distances, the first and the last among them; all if there are no more."""
        if count >= len(self.rows):
            return self.rows
        steps = max(count - 1, 1)
        return tuple(self.rows[index * (len(self.rows) - 1) // steps] for index in range(count))

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "loss": {"base": self.base_loss, "adapter": self.adapter_loss, "answer_tokens": self.tokens},
            "fact_share": {"base": self.base_share, "adapter": self.adapter_share, "questions": self.facts},
            "rows": [_row_data(row) for row in self.rows],
        }


def _row_data(row: Row) -> dict[str, Any]:
    return {
        "question": row.question,
        "base": row.base_answer,
        "adapter": row.adapter_answer,
        "fact": row.fact,
        "base_right": row.base_right,
        "adapter_right": row.adapter_right,
    }


def rows_of(
    questions: Sequence[str], base: Sequence[str], adapter: Sequence[str], facts: Sequence[str | None]
) -> tuple[Row, ...]:
    """The rows of a comparison from its columns."""
    return tuple(Row(*cells) for cells in zip(questions, base, adapter, facts, strict=True))
