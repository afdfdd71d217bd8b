"""`quatro merge`: a base and an adapter become one model, dense or in 4 bits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quatro.cli.amounts import bytes_text
from quatro.cli.console import busy, counting, emit_json, reading, say
from quatro.cli.models import model_path
from quatro.cli.quantize import check_target, disk_bytes
from quatro.format.errors import InputError, did_you_mean

MODES = ("dense", "4bit")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("merge")(merge)


def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a directory, a hub id, or demo.")],
    out_directory: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; it must be new or empty.")],
    adapter: Annotated[Path, typer.Option(help="The adapter's directory, in PEFT's layout.")],
    mode: Annotated[str, typer.Option(help="dense, or 4bit: in the base's layout, taught on --calibration.")] = "dense",
    onto: Annotated[
        str, typer.Option(help="dequantized: what the adapter was trained on. original: the base's own 16-bit weights.")
    ] = "dequantized",
    calibration: Annotated[
        Path | None,
        typer.Option(help="4bit only: a text like the adapter's own; its last tenth is measured, the rest teaches."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="4bit only: batches of 2048 tokens to teach with.")] = 100,
    force: Annotated[
        bool, typer.Option("--force", help="Merge an adapter of other weights, or one of which little survives.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if there is something in it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Merge an adapter into its base: a dense model that transformers loads alone, or a 4-bit one that keeps what was learned."""
    _check(mode, onto, calibration)
    source = model_path(model)
    check_target(source, out_directory, overwrite)
    if calibration is not None:
        found = _merge_4bit(source, adapter, out_directory, calibration, steps, force, overwrite)
    else:
        found = _merge_dense(source, adapter, out_directory, onto, force, overwrite)
    written = disk_bytes(out_directory)
    if as_json:
        emit_json({"model": model, "adapter": str(adapter), **found, "out": str(out_directory), "bytes_on_disk": written})
    else:
        _tell(found, out_directory, written)


def _check(mode: str, onto: str, calibration: Path | None) -> None:
    if mode not in MODES:
        raise InputError(f"--mode {mode} is not possible; {did_you_mean(mode, MODES)}")
    if mode == "4bit" and onto == "original":
        raise InputError("--mode 4bit merges onto the 4-bit weights the adapter was trained on; leave --onto original out")
    if mode == "4bit" and calibration is None:
        raise InputError("--mode 4bit needs --calibration FILE, a text like the adapter's own")
    if mode == "dense" and calibration is not None:
        raise InputError("--calibration is for --mode 4bit; a dense merge rounds nothing")


def _merge_dense(source: Path | str, adapter: Path, directory: Path, onto: str, force: bool, overwrite: bool) -> dict[str, Any]:
    with busy("loading libraries"):
        from quatro.integrations.merging import merge_dense
    with reading(f"merging {adapter}") as progress:
        merge_dense(source, adapter, directory, onto, force=force, overwrite=overwrite, progress=progress)
    return {"mode": "dense", "onto": onto}


def _merge_4bit(
    source: Path | str, adapter: Path, directory: Path, calibration: Path, steps: int, force: bool, overwrite: bool
) -> dict[str, Any]:
    with busy("loading libraries"):
        from quatro.integrations.merging_4bit import merge_4bit
    with counting() as progress:
        report = merge_4bit(
            source, adapter, directory, calibration, steps=steps, force=force, overwrite=overwrite, progress=progress
        )
    return {"mode": "4bit", **report.as_data()}


def _tell(found: dict[str, Any], directory: Path, written: int) -> None:
    if found["mode"] == "dense":
        say(f"written: {directory}, {bytes_text(written)}; it needs neither the adapter nor quatro")
        return
    for layer in found["layers"]:
        say(
            f"{layer['name']}: |dW|/|W| {layer['change']:.1%}, kept {layer['kept']:.0%}, by rounding alone {layer['rounded']:.0%}"
        )
    say("loss on the text's last tenth: " + ", ".join(f"{name} {loss:.3f}" for name, loss in found["losses"].items()))
    if found["gain_kept"] is not None:
        say(f"{found['gain_kept']:.0%} of the adapter's gain is kept")
    say(f"written: {directory}, {bytes_text(written)}; it needs no adapter")
