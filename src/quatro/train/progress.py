"""What a person sees while a run goes on: a bar with loss and time left in a terminal, a line for each evaluation elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


class ShowProgress(TrainerCallback):
    """console: where to show it; a console that is no terminal gets one plain line for each evaluation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.loss: float | None = None
        self.held: float | None = None
        self.started = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Start the bar at the step a run goes on from."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if self.console.is_terminal:
            self.progress = _bar(self.console)
            self.task = self.progress.add_task("training", total=state.max_steps, completed=state.global_step, told="")
            self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One step further."""
        if self.progress:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
        """Show the newest losses."""
        logs = logs or {}
        self.loss, self.held = logs.get("loss", self.loss), logs.get("eval_loss", self.held)
        if self.progress:
            self.progress.update(self.task, told=_told(self.loss, self.held))
        elif "eval_loss" in logs:
            left = f", {_clock(self._left(state))} left" if state.global_step > self.first_step else ""
            line = f"step {state.global_step}/{state.max_steps}: {_told(self.loss, self.held)}{left}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar down, however the run ended."""
        if self.progress:
            self.progress.stop()
            self.progress = None

    def _left(self, state: Any) -> float:
        """Seconds, if the rest goes as the steps so far."""
        done = state.global_step - self.first_step
        return (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _told(loss: float | None, held: float | None) -> str:
    parts = [f"loss {loss:.3f}" if loss is not None else "", f"held-out {held:.3f}" if held is not None else ""]
    return ", ".join(part for part in parts if part)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
