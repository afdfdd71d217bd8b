"""`quatro doctor`: what this machine can do for 4-bit work, and what is slower than it could be."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatro.cli import machine
from quatro.cli.amounts import bytes_text
from quatro.cli.console import busy, emit_json, out

if TYPE_CHECKING:
    from quatro.kernels.dispatch import BackendStatus

LOW_MEMORY = 2 * 2**30


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show the machine, its instruction sets, the backends and why each is or is not used, and the versions."""
    with busy("looking around"):
        from quatro.kernels.dispatch import backends

        found, cuda, status = machine.look(), machine.cuda(), backends()
    advice = advise(found, cuda, status)
    if as_json:
        emit_json(as_data(found, cuda, status, advice))
    else:
        show(found, cuda, status, advice)


def as_data(found: machine.Machine, cuda: machine.Cuda, status: "list[BackendStatus]", advice: list[str]) -> dict[str, Any]:
    """All that is known, for machines. Bytes are plain integers."""
    return {
        "machine": asdict(found),
        "cuda": asdict(cuda),
        "backends": [asdict(one) for one in status],
        "versions": machine.versions(),
        "advice": advice,
    }


def advise(found: machine.Machine, cuda: machine.Cuda, status: "list[BackendStatus]") -> list[str]:
    """One sentence for each thing that is slower than it could be, and what to do about it."""
    said = [f"on {one.device} the {one.name} backend {one.refusal}; a slower one runs" for one in _refused_before_used(status)]
    if cap := os.environ.get("QUATRO_ISA"):
        said.append(f"QUATRO_ISA={cap} caps the native kernels; unset it to let them use all that the processor has")
    if found.torch_threads < found.cores_usable:
        cores = found.cores_usable
        said.append(f"torch uses {found.torch_threads} of {cores} cores; unset OMP_NUM_THREADS or set it to {cores}")
    if cuda.absent and machine.has_nvidia_card():
        said.append(f"there is an NVIDIA card, but {cuda.absent}; install a torch build with CUDA (pytorch.org tells which)")
    if found.memory_available is not None and found.memory_available < LOW_MEMORY:
        said.append(f"only {bytes_text(found.memory_available)} of memory are free; close something before you load a model")
    return said


def show(found: machine.Machine, cuda: machine.Cuda, status: "list[BackendStatus]", advice: list[str]) -> None:
    """Print the tables."""
    from rich.markup import escape

    told = [(name, version or "not installed") for name, version in machine.versions().items()]
    for title, rows in (("machine", _machine_rows(found, cuda)), ("backends", _backend_rows(status)), ("versions", told)):
        out.print(_grid(title, rows))
        out.print()
    for sentence in advice:
        out.print(f"[yellow]slower than it could be:[/] {escape(sentence)}")
    if not advice:
        out.print("[green]nothing is slower than it could be on this machine[/]")


def _machine_rows(found: machine.Machine, cuda: machine.Cuda) -> list[tuple[str, str]]:
    limit = f", limited to {bytes_text(found.memory_limit)}" if found.memory_limit else ""
    free = f", {bytes_text(found.memory_available)} free" if found.memory_available is not None else ""
    return [
        ("system", found.system),
        ("processor", found.processor),
        ("cores", f"{found.cores_usable} of {found.cores}; torch uses {found.torch_threads} threads"),
        ("instructions", " ".join(found.instructions) or "torch names none"),
        ("memory", f"{bytes_text(found.memory)}{free}{limit}" if found.memory else "unknown"),
        ("disk", f"{bytes_text(found.disk_free)} free here"),
        ("cuda", cuda.absent or ", ".join(f"{name} ({bytes_text(memory)})" for name, memory in cuda.devices)),
    ]


def _backend_rows(status: "list[BackendStatus]") -> list[tuple[str, str]]:
    used = {one.device: one.name for one in reversed(status) if one.refusal is None}
    rows = []
    for one in status:
        ready = f"in use{_kernels(one)}" if used.get(one.device) == one.name else "ready; a faster one is in use"
        rows.append((f"{one.name} on {one.device}", ready if one.refusal is None else one.refusal))
    return rows


def _kernels(one: "BackendStatus") -> str:
    """Which of its kernels the native backend runs."""
    from quatro.kernels import native

    return f", with its {native.instruction_set()} kernels" if one.name == native.NAME else ""


def _refused_before_used(status: "list[BackendStatus]") -> "list[BackendStatus]":
    """The backends that stand before the one that runs, a device at a time: each would be faster."""
    slower = []
    for device in dict.fromkeys(one.device for one in status):
        for one in (one for one in status if one.device == device):
            if one.refusal is None:
                break
            slower.append(one)
    return slower


def _grid(title: str, rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True, min_width=13)
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text(value))
    return table
