"""`quatro`: the verbs, in the order in which one meets them."""

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

import quatro
from quatro.cli import bench, chat, compare, demo, doctor, merge, plan, quantize, train
from quatro.cli.console import settle
from quatro.cli.door import TERMINATED, Door, take_debug

VERBS = (demo, doctor, plan, quantize, train, chat, compare, merge, bench)

app = typer.Typer(
    name="quatro",
    cls=Door,
    help="Fine-tune a language model on ordinary hardware: 4-bit weights, an adapter trained on them, and the measure of it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
for verb in VERBS:
    verb.register(app)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"quatro {quatro.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Begin with [bold]quatro demo[/]: the whole path in a few minutes.")
def quatro_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; let libraries speak.")] = False,
) -> None:
    """QLoRA, whole: quantize a language model to 4 bits, train an adapter on it, and see whether it helped."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """The program: settle the process, then run the command line of this process."""
    _, debug = take_debug(sys.argv[1:])
    settle(debug)
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds the stack, so that nothing half-written stays behind."""
    sys.exit(TERMINATED)
