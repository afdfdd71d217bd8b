"""`quatro demo`: the whole path on the embedded model, from 16-bit weights to an adapter that knows something new."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quatro.cli.compare import write
from quatro.cli.console import busy, counting, emit_json, err, out, say
from quatro.cli.models import DEMO, demo_asset, load_model
from quatro.cli.sizes import size_data, size_line

if TYPE_CHECKING:
    from quatro.evaluate import Comparison
    from quatro.integrations.summary import ModelSummary
    from quatro.train.recipe import Recipe

SAMPLES = 8


@dataclass(frozen=True)
class Stage:
    """What the demo runs on: a base model, what the adapter learns from, what both are asked, and what it is all about."""

    base: Path
    train: Path
    held: Path
    about: str


def embedded() -> Stage:
    """The stage that comes with quatro."""
    first, *_ = demo_asset("company", "company.md").read_text(encoding="utf-8").splitlines()
    company = {name: demo_asset("company", f"{name}.jsonl") for name in ("train", "heldout")}
    return Stage(demo_asset("base"), company["train"], company["heldout"], first.removeprefix("#").strip())


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    output_dir: Annotated[Path, typer.Option(help="Where the adapter, the report and the comparison go.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Train this many steps instead of the recipe's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train again where a demo was trained before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Watch it happen in a few minutes: 4-bit weights, an adapter trained on them, and base and adapter side by side."""
    play(embedded(), output_dir, steps, overwrite, as_json)


def play(stage: Stage, output_dir: Path, steps: int | None, overwrite: bool, as_json: bool) -> None:
    """Quantize, train, compare, and say how to go on."""
    say(f"A small language model comes with quatro. It knows simple things, and has never heard of {stage.about}.")
    recipe = demo_recipe(stage, output_dir, steps)
    say("1. Its weights become 4 bits, and stay as they are from then on.")
    summary, backend = weigh(stage)
    say(f"   {size_line(summary)}, by the {backend} backend", style="dim")
    say(f"2. An adapter beside them learns from dialogues about {stage.about}.")
    train(recipe, overwrite)
    say("3. The base alone, and the base with its adapter, are asked in words that neither has seen.")
    found = judge(stage, output_dir)
    for name in ("comparison.md", "comparison.json"):
        write(found, output_dir / name)
    if as_json:
        emit_json({"output_dir": str(output_dir), "model": size_data(summary), "comparison": found.as_data()})
    else:
        show(found, output_dir)


def demo_recipe(stage: Stage, output_dir: Path, steps: int | None) -> "Recipe":
    """The packaged recipe `demo` on a stage."""
    with busy("reading the recipe"):
        from quatro.recipes import named_recipe
    paths = {"model": stage.base, "data.train": stage.train, "data.eval": stage.held, "output_dir": output_dir}
    overrides = {key: str(path) for key, path in paths.items()}
    more = {} if steps is None else {"train.max_steps": steps}
    return named_recipe(DEMO, [f"{key}={json.dumps(value)}" for key, value in {**overrides, **more}.items()])


def weigh(stage: Stage) -> "tuple[ModelSummary, str]":
    """The base in 4 bits, counted, and the name of the backend that quantized it."""
    model, _ = load_model(str(stage.base))
    from quatro.integrations.summary import summarize
    from quatro.kernels.dispatch import chosen_name

    return summarize(model), chosen_name(model.device.type)


def train(recipe: "Recipe", overwrite: bool) -> None:
    """Train the adapter, unless this very run is there and finished."""
    from quatro.train.run import train as run

    if not overwrite and is_done(recipe):
        say(f"   {recipe.output_dir} holds this adapter already; --overwrite trains it again", style="dim")
        return
    run(recipe, overwrite=overwrite, console=err)


def is_done(recipe: "Recipe") -> bool:
    """Whether the recipe's directory holds its own finished run."""
    from quatro.train.directory import RECIPE, is_finished
    from quatro.train.recipe_file import read_yaml
    from quatro.train.run import resolve

    path = Path(recipe.output_dir)
    return is_finished(path) and read_yaml(path / RECIPE) == resolve(recipe)[0].as_dict()


def judge(stage: Stage, output_dir: Path) -> "Comparison":
    """Base and adapter, loaded from disk, on the held-out rows."""
    model, tokenizer = load_model(str(stage.base), str(output_dir))
    from quatro.evaluate import compare, read_held_out

    held = read_held_out(stage.held, tokenizer)
    with counting() as progress:
        return compare(model, tokenizer, held, samples=0, max_new_tokens=48, progress=progress)


def show(found: "Comparison", output_dir: Path) -> None:
    """The table, and what to do with the result."""
    from quatro.evaluate.render import table

    out.print()
    out.print(table(found, SAMPLES))
    say(f"In {output_dir}: report.md with loss.png, comparison.md with every question, and the adapter.")
    say("Talk with it:")
    say(f"  quatro chat {DEMO} --adapter {output_dir}", style="bold")
