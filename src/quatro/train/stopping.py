"""Ctrl-C and SIGTERM: finish the step, save a checkpoint, and only then leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
