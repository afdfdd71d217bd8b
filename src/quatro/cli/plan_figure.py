"""A plan as a picture: one stacked bar for each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quatro.cli.amounts import bytes_text
from quatro.format.errors import InputError, MachineError

if TYPE_CHECKING:
    from quatro.planner.plan import Plan

GIB = 2**30
COLORS = {
    "weights": "#33608c",
    "4-bit weights": "#33608c",
    "dense weights": "#6f9cc4",
    "cast weights": "#6f9cc4",
    "buffers": "#b9cfe4",
    "adapters": "#4e9a6b",
    "gradients": "#8cc49f",
    "optimizer states": "#e0a83a",
    "activations": "#c8553d",
    "in passing": "#e59a86",
    "scratch": "#9a86b8",
    "CUDA context": "#a8a8a8",
    "process": "#a8a8a8",
}
FORMATS = ("png", "pdf", "svg")


def draw(file: Path, model: str, plans: "Mapping[str, Plan]", titles: Mapping[str, str], limit: int | None) -> None:
    """Write the picture. limit: bytes of a line across it. Raises InputError for a kind of file that is not drawn, MachineError for one
    that cannot be written."""
    if file.suffix.lstrip(".").lower() not in FORMATS:
        raise InputError(f"--figure {file} must end in one of {', '.join(f'.{name}' for name in FORMATS)}")
    from matplotlib.figure import Figure

    from quatro.planner.plan import PARTS

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    names = [name for name in PARTS if any(name in one.parts for one in plans.values())]
    below = [0.0] * len(plans)
    for name in names:
        heights = [one.parts[name].bytes / GIB if name in one.parts else 0.0 for one in plans.values()]
        axes.bar(range(len(plans)), heights, 0.6, below, label=name, color=COLORS[name], edgecolor="white", linewidth=0.5)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for place, one in enumerate(plans.values()):
        axes.annotate(
            bytes_text(one.total), (place, below[place]), (0, 3), textcoords="offset points", ha="center", weight="bold"
        )
    if limit is not None:
        axes.axhline(limit / GIB, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            bytes_text(limit), (len(plans) - 0.7, limit / GIB), (0, 3), textcoords="offset points", ha="right", fontsize=9
        )
    settings = next(iter(plans.values())).settings
    axes.set_title(f"{model}: batch {settings.batch}, length {settings.length}, r={settings.r}, {settings.optim}", fontsize=10)
    axes.set_xticks(range(len(plans)), [titles[name] for name in plans])
    axes.set_ylabel("GiB at the peak")
    axes.set_ylim(0, 1.12 * max(*below, (limit or 0) / GIB))
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise MachineError(f"could not write {file}: {error.strerror or error}") from error
