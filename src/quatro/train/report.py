"""report.md: what was trained on what, how the loss fell, how long it took, and how to talk with the result."""

from pathlib import Path

import yaml

from quatro.train.curve import points
from quatro.train.directory import FIGURE, RECIPE
from quatro.train.memory import size_text
from quatro.train.result import Result


def report_text(result: Result) -> str:
    """The report as Markdown."""
    sections = [_head(result), _losses(result), _facts(result), _data(result), _use(result), _recipe(result)]
    return "\n\n".join(sections) + "\n"


def _head(result: Result) -> str:
    moved = "Nothing was held out, so there is no held-out loss."
    if result.loss_before is not None and result.loss_after is not None:
        moved = f"Held-out loss went from **{result.loss_before:.4f}** to **{result.loss_after:.4f}** nats per token."
    name = result.output_dir.name
    return f"# {name}\n\nAn adapter for `{result.recipe.model}`. {moved}\n\n![training and held-out loss]({FIGURE})"


def _losses(result: Result) -> str:
    _, training = points(result.history, "loss")
    rows = [("held out", result.loss_before, result.loss_after)]
    rows.append(("training, first and last logged", training[0], training[-1]) if training else ("training", None, None))
    lines = [f"| {name} | {_number(before)} | {_number(after)} |" for name, before, after in rows]
    return "\n".join(["| loss, nats per token | before | after |", "|---|---|---|", *lines])


def _facts(result: Result) -> str:
    recipe = result.recipe
    share = 100 * result.trainable / result.parameters
    base = "as it is"
    if recipe.method == "qlora":
        chosen = recipe.quantization
        base = f"{chosen.quant_type}, blocks of {chosen.block_size}" + (", double quantization" if chosen.double_quant else "")
    resumed = f" (this process went on from step {result.resumed_from})" if result.resumed_from is not None else ""
    rows = [
        ("base", f"`{recipe.model}`, {result.parameters - result.trainable:,} weights, {base}"),
        ("trainable", f"{result.trainable:,} weights ({share:.2f} % of {result.parameters:,})"),
        ("steps", f"{result.steps:,} ({result.epochs:.2f} epochs){resumed}"),
        ("time in training", f"{result.seconds:,.1f} s"),
        ("speed", f"{result.tokens_per_second:,.0f} tokens per second"),
        ("memory at its peak", _memory(result)),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _memory(result: Result) -> str:
    told = {"measured": result.memory_measured, "planned": result.memory_planned}
    return ", ".join(f"{name} {size_text(size)}" if size is not None else f"not {name}" for name, size in told.items())


def _data(result: Result) -> str:
    return "\n".join(["## Data", "", *(f"- {line}" for line in result.data.lines())])


def _use(result: Result) -> str:
    lines = [
        "## Use",
        "",
        "```",
        result.chat_command,
        "```",
        "",
        f"The adapter is in `{result.adapter_dir}`, in PEFT's layout, with its tokenizer and the chat template it was trained "
        f"with. Checkpoints are beside it; `{RECIPE}` repeats the run.",
    ]
    return "\n".join(lines)


def _recipe(result: Result) -> str:
    text = yaml.safe_dump(result.recipe.as_dict(), sort_keys=False, allow_unicode=True)
    return f"## Recipe\n\n```yaml\n{text}```"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def write_report(result: Result, file: Path) -> None:
    """Write the report to a file."""
    file.write_text(report_text(result), encoding="utf-8")
