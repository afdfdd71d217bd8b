"""The table of architectures in docs/models.md: QUATRO_WRITE_TABLES=1 writes a row that differs, otherwise it is an error."""

import os
import re
from typing import Any

from quatro.integrations.summary import summarize
from tests.conftest import ROOT

FILE = ROOT / "docs" / "models.md"
WRITE = os.environ.get("QUATRO_WRITE_TABLES") == "1"


def row(name: str, model: Any) -> str:
    """Share of the weights in 4 bits, bytes in bfloat16 and in 4 bits, and what stays dense with its reason."""
    found = summarize(model)
    why: dict[str, set[str]] = {}
    for layer, reason in found.dense_layers.items():
        why.setdefault(reason, set()).add(layer.rpartition(".")[2])
    said = "; ".join(f"{reason}: {', '.join(sorted(names))}" for reason, names in sorted(why.items()))
    return f"| {name} | {found.share_in_4bit:.1%} | {found.bytes_16bit:,} | {found.bytes:,} | {said or 'nothing linear'} |"


def dropped(name: str, last: str) -> str:
    """Of an architecture that transformers has no more."""
    return f"| {name} | | | | dropped by transformers after {last} |"


def check(name: str, expected: str) -> None:
    """The table's row of that name must be the expected one."""
    text = FILE.read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    if rows.get(name) == expected:
        return
    assert WRITE, f"docs/models.md says {rows.get(name)!r}, measured is {expected!r}; QUATRO_WRITE_TABLES=1 writes it"
    rows[name] = expected
    heads = ("architecture",)
    body = [rows[key] for key in sorted(rows) if key not in heads and not key.startswith("---")]
    before, after = re.split(r"(?<=\|---:\|---:\|---\|\n)(?:\| .*\n)*", text, maxsplit=1)
    FILE.write_text(before + "\n".join(body) + "\n" + after, encoding="utf-8")
