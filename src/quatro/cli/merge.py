"""`quatro merge`: a base and an adapter become one dense model that loads anywhere."""

from pathlib import Path
from typing import Annotated

import typer

from quatro.cli.amounts import bytes_text
from quatro.cli.console import busy, emit_json, reading, say
from quatro.cli.models import model_path
from quatro.cli.quantize import check_target, disk_bytes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("merge")(merge)


def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a directory, a hub id, or demo.")],
    out_directory: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; it must be new or empty.")],
    adapter: Annotated[Path, typer.Option(help="The adapter's directory, in PEFT's layout.")],
    onto: Annotated[
        str, typer.Option(help="dequantized: what the adapter was trained on. original: the base's own 16-bit weights.")
    ] = "dequantized",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if there is something in it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Merge an adapter into its base: a dense model in the base's dtype, a tensor at a time, that transformers loads alone."""
    source = model_path(model)
    check_target(source, out_directory, overwrite)
    with busy("loading libraries"):
        from quatro.integrations.merging import merge_dense
    with reading(f"merging {adapter}") as progress:
        merge_dense(source, adapter, out_directory, onto, overwrite=overwrite, progress=progress)
    written = disk_bytes(out_directory)
    if as_json:
        emit_json({"model": model, "adapter": str(adapter), "onto": onto, "out": str(out_directory), "bytes_on_disk": written})
    else:
        say(f"written: {out_directory}, {bytes_text(written)}; it needs neither the adapter nor quatro")
