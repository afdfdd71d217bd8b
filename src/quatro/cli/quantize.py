"""`quatro quantize`: a model directory becomes a 4-bit one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quatro.cli.amounts import bytes_text, count_text
from quatro.cli.console import busy, emit_json, out
from quatro.cli.models import load_model, model_path
from quatro.cli.sizes import dense_parts, size_data
from quatro.format.errors import InputError

if TYPE_CHECKING:
    from quatro.integrations.summary import ModelSummary

SHOWN_PARTS = 6


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("quantize")(quantize)


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, a hub id, or demo for the embedded base.")],
    out_directory: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; it must be new or empty.")],
    quant_type: Annotated[str, typer.Option(help="nf4, fp4, int4, nf3 or nf2.")] = "nf4",
    block_size: Annotated[int, typer.Option(help="Weights that share a scale: a power of two from 32 to 4096.")] = 64,
    double_quant: Annotated[bool, typer.Option(help="Store the scales in 8 bits as well.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if there is something in it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize a model to 4 bits and save it: whole, or not at all."""
    check_target(model_path(model), out_directory, overwrite)
    loaded, tokenizer = load_model(model, quant_type=quant_type, block_size=block_size, double_quant=double_quant)
    if loaded.hf_quantizer.pre_quantized:
        raise InputError(f"{model} is in 4 bits already; start from its 16-bit weights, or copy the directory")
    with busy(f"writing {out_directory}"):
        from quatro.integrations.saving import save
        from quatro.integrations.summary import summarize

        save(loaded, out_directory, tokenizer, overwrite=overwrite)
        summary, dense = summarize(loaded), dense_parts(loaded)
    if as_json:
        where = {"model": model, "out": str(out_directory), "bytes_on_disk": disk_bytes(out_directory)}
        emit_json({**where, **size_data(summary), "dense": dict(dense)})
    else:
        show(summary, dense, out_directory)


def check_target(source: str, target: Path, overwrite: bool) -> None:
    """Raises InputError where writing `target` would destroy something that nobody asked to lose."""
    inside = Path(source).exists() and Path(source).resolve().is_relative_to(target.resolve())
    if inside:
        raise InputError(f"OUT {target} is the model itself or holds it; name another directory")
    if target.exists() and not target.is_dir():
        raise InputError(f"OUT {target} is a file; name a directory that is new or empty")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"OUT {target} is not empty; name a new directory, or --overwrite replaces all that is in it")


def disk_bytes(directory: Path) -> int:
    """All that lies in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def show(summary: "ModelSummary", dense: list[tuple[str, int]], directory: Path) -> None:
    """Print what became of the model."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, value in _rows(summary, dense, directory):
        table.add_row(name, Text(value))
    out.print(table)


def _rows(summary: "ModelSummary", dense: list[tuple[str, int]], directory: Path) -> list[tuple[str, str]]:
    parts = [f"{name} ({count_text(count)})" for name, count in dense]
    more = [f"{len(parts) - SHOWN_PARTS} more"] if len(parts) > SHOWN_PARTS else []
    return [
        ("parameters", count_text(summary.parameters)),
        ("in 4 bits", f"{100 * summary.share_in_4bit:.1f} %, at {summary.bits_per_weight:.3f} bits each, scales included"),
        ("weights", f"{bytes_text(summary.bytes_16bit)} in 16 bits, {bytes_text(summary.bytes)} now"),
        ("stays dense", ", ".join(parts[:SHOWN_PARTS] + more) or "nothing"),
        ("written", f"{directory} ({bytes_text(disk_bytes(directory))} on disk)"),
    ]
