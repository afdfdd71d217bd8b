"""`quatro train`: a recipe, or a model, data and a directory, become an adapter."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatro.cli.amounts import bytes_text
from quatro.cli.console import busy, emit_json, err, out
from quatro.cli.models import model_path
from quatro.format.errors import RecipeError

if TYPE_CHECKING:
    from quatro.train.recipe import Recipe
    from quatro.train.result import Result


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train")(train)


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...", help="A YAML file or a packaged recipe's name, and keys to set in it."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base: a directory, a hub id, or demo for the embedded base.")] = None,
    data: Annotated[str | None, typer.Option(help="What to train on: a .jsonl, .json, .parquet, .csv or .txt file.")] = None,
    held_out: Annotated[str | None, typer.Option("--eval", help="What to hold out: a file, or a share such as 0.05.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Where the adapter, checkpoints and the report go.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, or fail if there is none.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that output_dir holds.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start although the plan says that memory will not do.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check recipe and data, show both, and train nothing.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a recipe, and do nothing else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train an adapter on a 4-bit base. The same command again goes on where a run was stopped."""
    if schema:
        print_schema()
        return
    if resume and overwrite:
        raise RecipeError("--resume goes on with a run and --overwrite replaces it; say one of them")
    flags = {
        "model": model and model_path(model),
        "data.train": data,
        "data.eval": _number_or_path(held_out),
        "output_dir": output_dir,
    }
    recipe = read_recipe(words or [], {key: value for key, value in flags.items() if value is not None})
    if dry_run:
        show_plan(recipe, resume, overwrite, as_json)
        return
    with busy("loading libraries"):
        from quatro.train.run import train as run
    result = run(recipe, resume=resume, overwrite=overwrite, force=force, console=err)
    if as_json:
        emit_json(result.as_dict())
    else:
        show(result)


def print_schema() -> None:
    """For editors and for tools that write recipes."""
    with busy("reading transformers' arguments"):
        from quatro.train.recipe import recipe_schema

        found = recipe_schema()
    emit_json(found)


def _number_or_path(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def read_recipe(words: list[str], flags: dict[str, Any]) -> "Recipe":
    """The recipe that a command line means: the first word without an equals sign, then flags, then key=value."""
    with busy("reading the recipe"):
        from quatro.recipes import recipe_values
        from quatro.train.aliases import without_aliases
        from quatro.train.recipe import recipe_of
        from quatro.train.recipe_file import with_overrides, with_values

    named = [word for word in words if "=" not in word]
    if len(named) > 1:
        raise RecipeError(f"one recipe at a time, got {', '.join(named)}; settings are written key=value")
    if not named:
        _check_flags(flags, words)
    values = with_values(without_aliases(recipe_values(named[0])) if named else {}, flags)
    return recipe_of(with_overrides(values, [word for word in words if "=" in word]))


def _check_flags(flags: dict[str, Any], words: list[str]) -> None:
    given = [*flags, *(word.partition("=")[0] for word in words)]
    needed = {"model": "--model", "data.train": "--data", "output_dir": "--output-dir"}
    missing = [flag for key, flag in needed.items() if key not in given]
    if missing:
        raise RecipeError(
            f"nothing says what to train: name a recipe (`quatro train RECIPE.yaml`), or give {', '.join(missing)} as well"
        )


def show_plan(recipe: "Recipe", resume: bool, overwrite: bool, as_json: bool) -> None:
    """The complete recipe and what its data come to."""
    with busy("reading the data"):
        import yaml

        from quatro.train.directory import open_directory
        from quatro.train.run import planned, prepare_data, resolve

        recipe, tokenizer = resolve(recipe)
        open_directory(recipe, resume, overwrite)
        data = prepare_data(recipe, tokenizer)
        plan: dict[str, Any] = planned(recipe, data)
    if as_json:
        emit_json(plan)
        return
    print(yaml.safe_dump(plan["recipe"], sort_keys=False, allow_unicode=True))
    for line in [*data.summary.lines(), f"{plan['steps']:,} steps", *_memory_line(plan["memory"])]:
        print(line)


def _memory_line(memory: dict[str, Any] | None) -> list[str]:
    if memory is None:
        return []
    free = f", {bytes_text(memory['free'])} free" if memory["free"] else ""
    return [f"memory planned {bytes_text(memory['planned'])}{free}"]


def show(result: "Result") -> None:
    """How it went, and what to do with it."""
    if result.loss_before is not None and result.loss_after is not None:
        out.print(f"held-out loss {result.loss_before:.4f} → {result.loss_after:.4f} nats per token", soft_wrap=True)
    out.print(
        f"{result.steps:,} steps, {result.seconds:,.0f} s of training at {result.tokens_per_second:,.0f} tokens per second",
        soft_wrap=True,
    )
    out.print(f"adapter and report: {result.output_dir} (report.md, loss.png)", soft_wrap=True, markup=False)
    out.print("Talk with it:")
    out.print(f"  {result.chat_command}", soft_wrap=True, markup=False, style="bold")
