"""The door through which every command comes and every error leaves: one sentence on stderr and an exit code."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from quatro.cli.console import err
from quatro.format.errors import QuatroError

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes: the machine failed, the input was bad, stopped by Ctrl-C, stopped by SIGTERM."""


class Door(TyperGroup):
    """The group of all verbs. `--debug` may stand anywhere before a `--` and shows where an error came from."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command line and leave with its exit code. With standalone_mode=False errors are raised instead."""
        rest, debug = take_debug(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(rest, prog_name, standalone_mode=False, **extra)
        sys.exit(self._guarded(rest, prog_name, debug, extra))

    def _guarded(self, args: list[str], prog_name: str | None, debug: bool, extra: dict[str, Any]) -> int:
        """The exit code of a command line whose errors have been spoken."""
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except typer.TyperException as error:
            complain(usage_sentence(error), usage_hint(error))
            return error.exit_code
        except QuatroError as error:
            _trace(debug)
            complain(str(error))
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            complain("stopped", style="yellow")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  the one place where what nobody expected becomes a sentence
            _trace(debug)
            complain(unexpected_sentence(error), None if debug else "--debug shows where it happened")
            return FAILED
        if code == INTERRUPTED:
            complain("stopped", style="yellow")
        return code if isinstance(code, int) else 0


def take_debug(args: Sequence[str]) -> tuple[list[str], bool]:
    """(the arguments without --debug, whether it was there)."""
    args = list(args)
    end = args.index("--") if "--" in args else len(args)
    return [arg for arg in args[:end] if arg != "--debug"] + args[end:], "--debug" in args[:end]


def complain(sentence: str, hint: str | None = None, style: str = "bold red") -> None:
    """The sentence and, dimmed, what to do next."""
    err.print(f"[{style}]quatro:[/] {escape(sentence)}", soft_wrap=True)
    if hint:
        err.print(escape(hint), style="dim", soft_wrap=True)


def usage_sentence(error: typer.TyperException) -> str:
    """typer's complaint about a command line, in this project's manner."""
    option, close = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if option and close is not None:
        return f"no such option {option}" + (f"; did you mean {' or '.join(sorted(close))}?" if close else "")
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did you mean", "; did you mean")
    return message[:1].lower() + message[1:]


def usage_hint(error: typer.TyperException) -> str | None:
    """Where the right usage stands."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help shows what it takes" if context else None


def unexpected_sentence(error: Exception) -> str:
    """The name of an exception that nobody foresaw, and what it says of itself."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror.lower()}{where}"
    said = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}{': ' + said if said else ''}"


def _trace(debug: bool) -> None:
    if debug:
        traceback.print_exc()
