"""`quatro compare`: the base beside its adapter, on data that neither was trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quatro.cli.console import counting, emit_json, out, say
from quatro.cli.models import load_model
from quatro.format.errors import InputError

if TYPE_CHECKING:
    from quatro.data.rows import Rows
    from quatro.evaluate import Comparison, HeldOut

LEFT_OUT_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare")(compare)


def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, a hub id, or demo for the embedded base.")],
    adapter: Annotated[str, typer.Option(help="The adapter directory to judge.")],
    force: Annotated[bool, typer.Option("--force", help="Put the adapter on although it was made for other weights.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Held-out rows: all count for the loss, those with a fact are answered.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one question a line, answered by both.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="How many questions the table shows.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first rows of the data.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 16,
    format: Annotated[str, typer.Option(help="The form of the rows; auto recognizes it.")] = "auto",
    template: Annotated[str, typer.Option(help="How a chat is written: auto is the tokenizer's own template.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Write the comparison here as well: .md or .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare a base with its adapter: held-out loss, the share of right facts, and answers side by side."""
    if data is None and prompts is None:
        raise InputError("compare needs something to compare on: --data with held-out rows, --prompts with questions, or both")
    check_output(output)
    from quatro.data.rows import read_rows
    from quatro.evaluate import compare as judge
    from quatro.evaluate import read_prompts
    from quatro.evaluate.render import table

    asked = read_prompts(prompts) if prompts else ()
    rows = read_rows(data) if data else None  # a broken file is refused before the model is loaded
    loaded, tokenizer = load_model(model, adapter, force=force)
    held = _held(rows, loaded, tokenizer, format, template, limit)
    with counting() as progress:
        found = judge(
            loaded,
            tokenizer,
            held,
            prompts=asked,
            samples=samples,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            template=template,
            progress=progress,
        )
    if output:
        write(found, output)
    if as_json:
        emit_json(found.as_data())
    else:
        out.print(table(found, max(samples, len(asked))))


def check_output(output: Path | None) -> None:
    """Raises InputError for a file of another kind, before any work is done."""
    if output is not None and output.suffix not in (".md", ".json"):
        raise InputError(f"--output {output} is neither .md nor .json")


def write(found: "Comparison", file: Path) -> None:
    """The comparison as markdown or JSON, by the file's suffix."""
    from quatro.cli.console import json_text
    from quatro.evaluate.render import markdown
    from quatro.integrations.files import whole_file

    with whole_file(file) as path:
        path.write_text(json_text(found.as_data()) + "\n" if file.suffix == ".json" else markdown(found), encoding="utf-8")


def _held(rows: "Rows | None", model: object, tokenizer: object, format: str, template: str, limit: int | None) -> "HeldOut":
    from quatro.evaluate import HeldOut, read_held_out
    from quatro.generation.ending import context_window

    if rows is None:
        return HeldOut()
    held = read_held_out(rows, tokenizer, format=format, template=template, max_length=context_window(model), limit=limit)
    say_left_out(held)
    return held


def say_left_out(held: "HeldOut") -> None:
    """Name the rows that could not be used, the first ones each."""
    for line in held.left_out[:LEFT_OUT_SHOWN]:
        say(f"left out, {line}", style="yellow")
    if len(held.left_out) > LEFT_OUT_SHOWN:
        say(f"and {len(held.left_out) - LEFT_OUT_SHOWN} more rows were left out", style="yellow")
