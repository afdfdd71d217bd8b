"""`quatro bench`: how fast 4-bit products are on this machine, beside dense torch and bitsandbytes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatro.cli.console import busy, emit_json, err, out

if TYPE_CHECKING:
    from quatro.evaluate.speed import Speed

ROWS = (1, 8, 64, 256)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench")(bench)


def bench(
    size: Annotated[int, typer.Option(min=64, max=16384, help="Rows and columns of the weight; a multiple of 64.")] = 4096,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed; the median counts.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure products with a 4-bit weight, after checking that they are right: time, share of the memory's speed, ratios."""
    from quatro.format.errors import InputError

    if size % 64:
        raise InputError(f"--size is {size}; blocks of 64 need a multiple of 64, such as {max(64, size // 64 * 64)}")
    with busy("loading torch"):
        import torch

        from quatro.evaluate.speed import measure_products, read_bandwidth
        from quatro.kernels import native
    with err.status("measuring", spinner="dots") as status:
        read = read_bandwidth()
        found = measure_products(size, ROWS, rounds, lambda step: status.update(f"measuring: {step}"))
    about = f"{size} x {size}, nf4 with double quantization, {torch.get_num_threads()} threads, {native.instruction_set()}"
    if as_json:
        emit_json({"what": about, "read_gb_s": read, "products": [as_data(speed) for speed in found]})
    else:
        show(about, read, found)


def as_data(speed: "Speed") -> dict[str, Any]:
    """Plain numbers: seconds are medians."""
    return {"rows": speed.rows, "seconds": speed.seconds, "gflops": speed.gflops, "read_gb_s": speed.read_gb}


def show(about: str, read: float, found: "list[Speed]") -> None:
    """Print the table."""
    from rich.table import Table

    rivals = [name for name in found[0].seconds if name != "quatro"]
    table = Table(title=about, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("rows", "quatro", *rivals, "GFLOP/s", f"of reading at {read:.0f} GB/s"):
        table.add_column(column, justify="right")
    for speed in found:
        others = [f"{speed.seconds[name] * 1e3:.2f} ms ({speed.times(name):.1f}x)" for name in rivals]
        share = f"{speed.read_gb / read:.0%}"
        table.add_row(str(speed.rows), f"{speed.seconds['quatro'] * 1e3:.2f} ms", *others, f"{speed.gflops:.0f}", share)
    out.print(table)
