"""`quatro plan`: will it fit? What a training run takes, before anything is downloaded or loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatro.cli.amounts import bytes_text, count_text
from quatro.cli.console import busy, emit_json, err, out, say
from quatro.format.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from quatro.planner.largest import Largest
    from quatro.planner.plan import Part, Plan
    from quatro.planner.ranks import Rank
    from quatro.planner.skeleton import Skeleton

ASSUMPTIONS = ("paper",)
TITLES = {"full": "full, 16 bits", "lora": "LoRA, 16-bit base", "qlora": "QLoRA, 4 bits"}

MALLOC = (
    "glibc keeps freed memory between tensors and takes 14 to 95 % more than this (docs/planning.md); MALLOC_MMAP_THRESHOLD_=131072 in a "
    "run's environment keeps it to its need, at the price of some time"
)


@dataclass(frozen=True)
class Answer:
    """All that is known of a model: plans by method; with a limit what fits it; ranks; the paper's bars where they are asked for."""

    model: str
    skeleton: "Skeleton"
    plans: "Mapping[str, Plan]"
    limit: int | None
    ways: "list[Largest]"
    ranks: "list[Rank]"
    paper: "Mapping[str, Part] | None"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan")(plan)


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A directory, a config.json, a published name (llama-7b), or a hub id.")
    ],
    method: Annotated[
        str | None, typer.Option(help="Show one of full, lora, qlora with its formulas; without it all three.")
    ] = None,
    r: Annotated[int, typer.Option(help="The adapter's rank.")] = 16,
    targets: Annotated[str, typer.Option(help="all-linear, or layer names: q_proj,v_proj.")] = "all-linear",
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    accumulation: Annotated[int, typer.Option(help="Batches a step; with 1, gradients do not stand.")] = 4,
    optim: Annotated[
        str, typer.Option(help="transformers' name, such as adamw_torch or paged_adamw_8bit.")
    ] = "paged_adamw_32bit",
    budget: Annotated[str, typer.Option(help="What a paged optimizer keeps resident.")] = "256MiB",
    checkpointing: Annotated[str, typer.Option(help="none, products (all else computed again) or all.")] = "none",
    dropout: Annotated[float, typer.Option(help="Of the adapter's inputs.")] = 0.05,
    device: Annotated[str, typer.Option(help="gpu or cpu.")] = "gpu",
    dtype: Annotated[
        str | None, typer.Option(help="Of the checkpoint's numbers; without it as its configuration says.")
    ] = None,
    compute: Annotated[str | None, typer.Option(help="Of products: bfloat16, float16 or float32.")] = None,
    fits: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A budget such as 12GiB: does it fit, and what would?")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw stacked bars, one a method, to this file.")] = None,
    assume: Annotated[str | None, typer.Option(help="paper: also what the QLoRA paper's own bars assume.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what training would take, part by part: full fine-tuning, LoRA and QLoRA side by side."""
    from quatro.planner.asking import configuration, settings_for
    from quatro.planner.largest import largest
    from quatro.planner.models import skeleton_of
    from quatro.planner.plan import side_by_side
    from quatro.planner.ranks import ranks

    if assume is not None and assume not in ASSUMPTIONS:
        raise InputError(f"--assume {assume!r} is unknown; {did_you_mean(assume, ASSUMPTIONS)}")
    config = configuration(model, _fetch)
    skeleton = skeleton_of(config)
    given = {
        "r": r,
        "targets": targets if targets == "all-linear" else [name.strip() for name in targets.split(",") if name.strip()],
        "batch": batch,
        "length": length,
        "accumulation": accumulation,
        "optim": optim,
        "budget": budget,
        "checkpointing": checkpointing,
        "dropout": dropout,
        "device": device,
        "compute": compute or default_compute(device),
        **({"dtype": dtype} if dtype else {}),
        **({"method": method} if method else {}),
    }
    settings = settings_for(config, given)
    limit = None if fits is None else _size("--fits", fits)
    answer = Answer(
        model,
        skeleton,
        side_by_side(skeleton, settings),
        limit,
        [] if limit is None else largest(skeleton, settings, limit),
        ranks(skeleton, replace(settings, method="qlora")),
        _paper(skeleton) if assume else None,
    )
    if figure is not None:
        _draw(figure, model, answer.plans, limit)
    if as_json:
        emit_json(as_data(answer))
    else:
        show(answer, method)
        if figure is not None:
            say(f"drawn to {figure}", "dim")


def default_compute(device: str) -> str:
    """The dtype of products where none is asked for: float32 on a processor of this machine that has no units for bfloat16."""
    return "bfloat16" if device != "cpu" or _has_bf16_units() else "float32"


def _has_bf16_units() -> bool:
    """As quatro.kernels.compute asks torch, which is not loaded here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return bool(re.search(r"^(flags|Features)\s*:.*\b(avx512_bf16|amx_bf16|bf16)\b", text, re.MULTILINE))


def _fetch(name: str) -> Mapping[str, Any]:
    if err.is_terminal:
        say(f"{name} is no directory here; looking for its config.json on the hub", "dim")
    with busy(f"asking the hub for {name}"):
        from quatro.integrations.planning import fetch

        return fetch(name)


def _size(option: str, text: str) -> int:
    from quatro.format.sizes import parse_size

    try:
        return parse_size(text)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


def _paper(skeleton: "Skeleton") -> "Mapping[str, Part]":
    from quatro.planner.paper import paper_parts

    return paper_parts(skeleton)


def as_data(answer: Answer) -> dict[str, Any]:
    """All that is known, for machines. Bytes are plain integers."""
    found: dict[str, Any] = {
        "model": answer.model,
        "model_type": answer.skeleton.kind,
        "parameters": answer.skeleton.parameters,
        "methods": {name: one.as_dict() for name, one in answer.plans.items()},
        "ranks": [vars(one) for one in answer.ranks],
    }
    if answer.limit is not None:
        found["budget_bytes"] = answer.limit
        found["fits"] = {name: one.total <= answer.limit for name, one in answer.plans.items()}
        found["ways"] = [_way_data(way) for way in answer.ways]
    if answer.paper is not None:
        found["paper"] = {"total_bytes": _sum(answer.paper), "parts": {name: vars(part) for name, part in answer.paper.items()}}
    return found


def _way_data(way: "Largest") -> dict[str, Any]:
    numbers = {name: getattr(way, name) for name in ("fits", "total", "length", "batch", "r")}
    return {"method": way.settings.method, "changes": list(way.changes), **numbers}


def show(answer: Answer, method: str | None) -> None:
    """Print the tables."""
    plans = {method: answer.plans[method]} if method else answer.plans
    skeleton, limit = answer.skeleton, answer.limit
    first = next(iter(plans.values())).settings
    out.print(
        f"[bold]{answer.model}[/]: {skeleton.kind}, {count_text(skeleton.parameters)} parameters; batch {first.batch}, length {first.length}, "
        f"r={first.r}, {first.optim}, {first.device}, checkpointing {first.checkpointing}"
    )
    out.print(_side_by_side(plans, limit) if len(plans) > 1 else _with_formulas(next(iter(plans.values())), limit))
    if answer.paper is not None:
        out.print(_paper_table(answer.paper))
    if limit is not None:
        out.print(_ways_table(answer.ways, limit))
    out.print(_rank_table(answer.ranks, skeleton))
    if first.device == "cpu":
        say(MALLOC, "dim")


def _side_by_side(plans: "Mapping[str, Plan]", limit: int | None) -> "Table":
    from quatro.planner.plan import PARTS

    names = [name for name in PARTS if any(name in one.parts for one in plans.values())]
    table = _table("what it takes at its peak", "part", *(TITLES[name] for name in plans))
    for name in names:
        table.add_row(name, *(bytes_text(one.parts[name].bytes) if name in one.parts else "" for one in plans.values()))
    table.add_section()
    table.add_row("[bold]total[/]", *(f"[bold]{bytes_text(one.total)}[/]" for one in plans.values()))
    if any(one.paged for one in plans.values()):
        paged = [bytes_text(one.paged) if one.paged else "" for one in plans.values()]
        table.add_row("[dim]paged out beside it[/]", *paged)
    table.add_row("trained", *(f"{count_text(one.trainable)} ({one.trainable_percent:.3g} %)" for one in plans.values()))
    if limit is not None:
        table.add_row(f"fits {bytes_text(limit)}", *(_yes(one.total <= limit) for one in plans.values()))
    return table


def _with_formulas(one: "Plan", limit: int | None) -> "Table":
    table = _table(f"{TITLES[one.settings.method]}: what it takes at its peak", "part", "bytes", words="how")
    for name, part in one.parts.items():
        table.add_row(name, bytes_text(part.bytes), part.why)
    table.add_section()
    fits = "" if limit is None else f"fits {bytes_text(limit)}: {_yes(one.total <= limit)}"
    table.add_row("[bold]total[/]", f"[bold]{bytes_text(one.total)}[/]", fits)
    if one.paged:
        table.add_row("[dim]paged out beside it[/]", bytes_text(one.paged), "optimizer states in host memory or on disk")
    return table


def _paper_table(bars: "Mapping[str, Part]") -> "Table":
    table = _table("under the QLoRA paper's own assumptions", "part", "bytes", words="how")
    for name, part in bars.items():
        table.add_row(name, bytes_text(part.bytes), part.why)
    table.add_section()
    table.add_row("[bold]total[/]", f"[bold]{bytes_text(_sum(bars))}[/]", f"{_sum(bars) / 1e9:.1f} GB")
    return table


def _ways_table(ways: "list[Largest]", limit: int) -> "Table":
    table = _table(
        f"what fits {bytes_text(limit)}, {TITLES[ways[0].settings.method]}",
        "way",
        "as asked",
        "fits",
        "length up to",
        "or batch",
        "or r",
    )
    for way in ways:
        numbers = [f"{value:,}" if value else "none" for value in (way.length, way.batch, way.r)]
        table.add_row("; ".join(way.changes) or "as asked", bytes_text(way.total), _yes(way.fits), *numbers)
    return table


def _rank_table(told: "list[Rank]", skeleton: "Skeleton") -> "Table":
    hidden = f"{skeleton.stacks[0].hidden}²"
    table = _table("what is trained, by rank", "r", f"a {hidden} matrix", "in all", "file", "states", words="good for")
    for one in told:
        numbers = (f"{one.per_square:,}", f"{one.trainable:,}", bytes_text(one.file), bytes_text(one.states))
        table.add_row(str(one.r), *numbers, one.guidance)
    return table


def _table(title: str, first: str, *numbers: str, words: str | None = None) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, style="cyan")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    if words:
        table.add_column(words, style="dim")
    return table


def _yes(fits: bool) -> str:
    return "[green]yes[/]" if fits else "[red]no[/]"


def _sum(parts: "Mapping[str, Part]") -> int:
    return sum(part.bytes for part in parts.values())


def _draw(file: Path, model: str, plans: "Mapping[str, Plan]", limit: int | None) -> None:
    from quatro.cli.plan_figure import draw

    draw(file, model, plans, TITLES, limit)
