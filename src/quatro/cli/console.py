"""How the command line speaks: answers on stdout, everything else on stderr."""

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "0" if err.is_terminal else "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def say(text: str = "", style: str | None = None) -> None:
    """A calm line to the person on stderr; never part of what a machine reads. Text is taken as it is, without markup."""
    err.print(escape(text), style=style, soft_wrap=True)


def emit_json(value: Any) -> None:
    """The one thing on stdout when --json is asked for."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON. NaN and infinities become null, which JSON has."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on a terminal's stderr while something runs; nothing elsewhere."""
    with err.status(f"[dim]{escape(text)}[/]", spinner="dots"):
        yield


@contextmanager
def reading(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with speed and time left on a terminal's stderr; what it yields is told the bytes so far and all there are."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("[dim]{task.description}[/]"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(text), total=None)
        yield lambda read, all: bar.update(task, completed=read, total=all)


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Bars with time left on a terminal's stderr, one for each thing that is being done; what it yields is told (what, done, of how many)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("[dim]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def hear(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(what), total=total)
            bars.update(tasks[what], completed=done)

        yield hear


class Notes(logging.Handler):
    """What the library has to say once (a slow backend, a forgotten turn), as a dim line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        err.print(f"note: {escape(record.getMessage())}", style="dim", soft_wrap=True)


def settle(debug: bool) -> None:
    """Make a process's libraries quiet and quatro's own notes visible; with debug they may all speak."""
    logger = logging.getLogger("quatro")
    logger.addHandler(Notes())
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    if debug:
        return
    logging.getLogger().setLevel(logging.ERROR)
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
