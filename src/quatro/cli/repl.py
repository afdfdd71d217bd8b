"""A conversation in the terminal: a line in, an answer that appears as it is written, and a few commands."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from quatro.cli.console import err, out, say
from quatro.format.errors import InputError, did_you_mean

HELP = {
    "/reset": "forget the conversation",
    "/undo": "take back the last question and its answer",
    "/help": "show these commands",
    "/quit": "leave (or Ctrl-D)",
}


class Talk(Protocol):
    """What the loop needs of a conversation; quatro.generation's Chat is one."""

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces."""
        ...

    def undo(self) -> str | None:
        """Take back the last question and return it."""
        ...

    def reset(self) -> None:
        """Forget the conversation."""
        ...


def write_answer(pieces: Iterator[str]) -> str:
    """Print an answer piece by piece on stdout, and a line break after it; returns all of it."""
    said = ""
    try:
        for piece in pieces:
            said += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return said


def converse(talk: Talk, interactive: bool) -> None:
    """Ask and answer until the input ends or /quit. Ctrl-C stops an answer; twice at an empty line it leaves.

    interactive: False reads questions from a pipe, one a line, and prints nothing but answers.
    """
    read = _reader(interactive)
    while (line := read()) is not None:
        text = line.strip()
        if not text:
            continue
        if re.fullmatch(r"/[a-z]+", text):
            if not _obey(talk, text):
                return
            continue
        _reply(talk, text, interactive)


def _reply(talk: Talk, text: str, interactive: bool) -> None:
    """One answer. In a conversation a question that cannot be asked is explained, and the conversation goes on."""
    try:
        write_answer(talk.ask(text))
    except KeyboardInterrupt:
        if not interactive:
            raise
        say("stopped", style="dim")
    except InputError as error:
        if not interactive:
            raise
        say(str(error), style="yellow")
    if interactive:
        out.print()


def _obey(talk: Talk, command: str) -> bool:
    """Whether the conversation goes on after a command."""
    if command == "/quit":
        return False
    if command == "/reset":
        talk.reset()
        say("the conversation is forgotten", style="dim")
    elif command == "/undo":
        question = talk.undo()
        say(f"taken back: {question}" if question else "there is nothing to take back", style="dim")
    elif command == "/help":
        show_help()
    else:
        say(f"no such command {command}; {did_you_mean(command, HELP)}", style="yellow")
    return True


def show_help() -> None:
    """The commands, a line each."""
    for command, meaning in HELP.items():
        say(f"  {command:<8}{meaning}", style="dim")
    say("  Ctrl-C  stop an answer", style="dim")


def _reader(interactive: bool) -> Callable[[], str | None]:
    """Reads one line; None at the end of the input."""
    if not interactive:
        lines = iter(sys.stdin)
        return lambda: next(lines, None)
    import readline  # noqa: F401  importing it gives input() editing and history

    return _ask_line


def _ask_line() -> str | None:
    """A line from the terminal. Ctrl-C throws the line away; a second time in a row it leaves."""
    for last in (False, True):
        try:
            return input(_prompt())
        except EOFError:
            say()
            return None
        except KeyboardInterrupt:
            if last:
                raise
            say("\nCtrl-D or /quit leaves", style="dim")
    return None


def _prompt() -> str:
    """The marker is wrapped for readline, which must not count its color codes."""
    return "\001\033[1;36m\002›\001\033[0m\002 " if err.is_terminal and not err.no_color else "› "
