"""Ctrl-C, SIGTERM, and the end of the time there is: finish the step, save a checkpoint, and only then leave."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from quatro.format.errors import MachineError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STEPS_LEFT = 2.0
"""Steps of the longest kind that there must be time for, one of them for saving."""


class StopWhenAsked(TrainerCallback):
    """The first signal asks for a stop behind the current step; a second one is obeyed at once."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.asked: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold signals back while the block runs; one that came is delivered again at its end. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.asked is not None:
            signal.raise_signal(self.asked)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        """Save and stop, if someone asked."""
        if self.asked is not None:
            control.should_save = control.should_training_stop = True
        return control

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        self.console.print("stopping behind this step; the same command goes on from there", highlight=False)


class StopInTime(TrainerCallback):
    """Saves and stops behind the last step for which there is time. hours: of this process, from the start of the run on."""

    def __init__(self, hours: float) -> None:
        self.end = time.monotonic() + 3600 * hours
        self.hours, self._last, self._longest = hours, time.monotonic(), 0.0
        self.stopped_at: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What comes before is no step."""
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        """Evaluations and checkpoints since the last step count as part of this one."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        if now + STEPS_LEFT * self._longest > self.end and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control

    def check(self) -> None:
        """Raise MachineError if the run is not at its end."""
        if self.stopped_at is not None:
            raise MachineError(
                f"stopped at step {self.stopped_at:,}, before max_hours ({self.hours:g}) were over; its checkpoint is whole, and the same "
                "command goes on from there"
            )
