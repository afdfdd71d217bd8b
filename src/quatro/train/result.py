"""What a run leaves behind, as a value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quatro.data.summary import DataSummary
from quatro.data.templates import OWN
from quatro.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Result:
    """loss_before, loss_after: held-out nats per learned token, None without evaluation. history: what Trainer logged.

    trainable, parameters: true weights, one for each, also in 4 bits. seconds, tokens_per_second: of training in this process,
    without evaluation. resumed_from: the step this process went on from, None if it began the run.
    memory_planned, memory_measured: bytes at the peak, above what the process took before; None where nobody can say.
    template: the chat template that turns were rendered with, None for plain texts and completions.
    """

    recipe: Recipe
    output_dir: Path
    adapter_dir: Path
    report: Path
    data: DataSummary
    template: str | None
    history: list[dict[str, Any]]
    loss_before: float | None
    loss_after: float | None
    steps: int
    epochs: float
    seconds: float
    tokens_per_second: float
    trainable: int
    parameters: int
    memory_planned: int | None
    memory_measured: int | None
    resumed_from: int | None

    @property
    def chat_command(self) -> str:
        """How to talk with the adapter; a template that is not the tokenizer's own is named."""
        own = self.template in (None, OWN)
        return f"quatro chat {self.recipe.model} --adapter {self.adapter_dir}" + ("" if own else f" --template {self.template}")

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        simple = {name: getattr(self, name) for name in self.__slots__ if name not in ("recipe", "data")}
        paths = {name: str(value) for name, value in simple.items() if isinstance(value, Path)}
        return {**simple, **paths, "recipe": self.recipe.as_dict(), "data": self.data.as_dict()}
