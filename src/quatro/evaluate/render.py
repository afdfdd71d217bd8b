"""A comparison for eyes: in the terminal, and in a file that any viewer of markdown shows."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quatro.evaluate.comparison import Comparison, Row


def table(comparison: Comparison, samples: int = 8) -> RenderableType:
    """The measures and `samples` of the questions, for rich."""
    parts: list[RenderableType] = []
    if measures(comparison):
        parts.append(_measure_table(comparison))
    if comparison.rows and samples:
        parts.append(_answer_table(comparison.sample(samples)))
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """Every measure and every question, as two markdown tables."""
    lines = ["# Base beside adapter", ""]
    if found := measures(comparison):
        lines += ["| | base | adapter |", "|---|---:|---:|", *(f"| {' | '.join(cells)} |" for cells in found), ""]
    if comparison.rows:
        lines += ["| question | base | adapter | fact |", "|---|---|---|---|", *map(_markdown_row, comparison.rows), ""]
    return "\n".join(lines)


def measures(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(name, base, adapter) of each measure that was taken."""
    found = []
    if comparison.base_loss is not None and comparison.adapter_loss is not None:
        found.append(("held-out loss per answer token", f"{comparison.base_loss:.3f}", f"{comparison.adapter_loss:.3f}"))
        found.append(("perplexity", _perplexity(comparison.base_loss), _perplexity(comparison.adapter_loss)))
    if comparison.base_share is not None and comparison.adapter_share is not None:
        name = f"answers with the right fact, of {comparison.facts}"
        found.append((name, f"{100 * comparison.base_share:.1f} %", f"{100 * comparison.adapter_share:.1f} %"))
    return found


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):.3g}" if loss < 20 else "> 1e8"


def _measure_table(comparison: Comparison) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    drawn.add_column("")
    drawn.add_column("base", justify="right")
    drawn.add_column("adapter", justify="right", style="bold")
    for row in measures(comparison):
        drawn.add_row(*row)
    return drawn


def _answer_table(rows: tuple[Row, ...]) -> Table:
    from rich import box

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_lines=False, row_styles=None, expand=False)
    for title, ratio in (("question", 4), ("base", 5), ("adapter", 5)):
        drawn.add_column(title, ratio=ratio, overflow="fold")
    for row in rows:
        base, adapter = _judged(row.base_answer, row.base_right), _judged(row.adapter_answer, row.adapter_right)
        drawn.add_row(Text(row.question), base, adapter)
    return drawn


def _judged(answer: str, right: bool | None) -> Text:
    """The answer behind its mark; colors say the same as the mark, never more."""
    marks = {None: ("", ""), True: ("✓ ", "green"), False: ("✗ ", "red")}
    mark, style = marks[right]
    return Text.assemble((mark, style), answer or "(nothing)")


def _markdown_row(row: Row) -> str:
    base, adapter = _marked(row.base_answer, row.base_right), _marked(row.adapter_answer, row.adapter_right)
    return "| " + " | ".join(map(_cell, (row.question, base, adapter, row.fact or ""))) + " |"


def _marked(answer: str, right: bool | None) -> str:
    return answer if right is None else f"{'✓' if right else '✗'} {answer}"


def _cell(text: str) -> str:
    """Text that stays in its cell: no line breaks, no bars, no markup."""
    one_line = " ".join(text.split())
    for character in "\\|<>*_`[]":
        one_line = one_line.replace(character, f"\\{character}")
    return one_line
