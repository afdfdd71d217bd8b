"""loss.png: how the loss fell, in training and on what was held out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

TRAIN, HELD, INK = "#9db7d5", "#c0392b", "#333333"


def points(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of what was logged under a name; of a step logged twice, the later."""
    found = {int(entry["step"]): float(entry[name]) for entry in history if name in entry}
    return list(found), list(found.values())


def draw_losses(history: Sequence[dict[str, Any]], file: Path, title: str) -> None:
    """Training loss as a line, held-out loss as marks with their values at both ends."""
    figure = Figure(figsize=(8, 4.5), dpi=120)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.92, bottom=0.11)
    axes = figure.add_subplot()
    steps, losses = points(history, "loss")
    axes.plot(steps, losses, color=TRAIN, linewidth=1.6, label="training loss", marker="." if len(steps) < 3 else None)
    _draw_held(axes, *points(history, "eval_loss"))
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02, y=0.12)
    _begin_at_zero(axes)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(file, format="png")


def _begin_at_zero(axes: Any) -> None:
    """Where the loss falls to a small part of what it was; elsewhere zero would only press the curve together."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if 0 <= low < 0.25 * high < math.inf:
        axes.set_ylim(bottom=0)


def _draw_held(axes: Any, steps: list[int], losses: list[float]) -> None:
    if not steps:
        return
    axes.plot(steps, losses, color=HELD, linewidth=2, marker="o", markersize=4.5, label="held-out loss")
    for index in sorted({0, len(steps) - 1}):
        axes.annotate(
            f"{losses[index]:.3f}",
            (steps[index], losses[index]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="left" if index == 0 else "right",
            color=HELD,
            fontsize=9,
            fontweight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
