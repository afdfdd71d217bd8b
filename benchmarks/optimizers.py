"""Steps of optimizers: their speed beside torch's and bitsandbytes', and what a budget costs.

    python benchmarks/optimizers.py [--directory DIR]

Speed: one parameter of 30 million elements, nanoseconds a parameter. Paging: every parameter of a 300M Llama with gradients, AdamW with
256 MiB of states in memory and the rest in a file, beside the same steps without paging and the same bytes moved by two threads past the
page cache. Each paged contender runs in a process of its own; memory is resident above what parameters and gradients take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from harness import interleaved, print_table, surroundings, write_result
from torch import nn

from quatro.optim import PagedAdamW, PagedLion
from quatro.optim.paged import Paged

COUNT, ROUNDS = 30_000_000, 7
BUDGET, PAGE, STEPS = "256MiB", 4 << 20, 6
MOST_RESIDENT = 300 << 20


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(paged(options.worker, options.directory)))
        return
    found = surroundings("quatro", "torch", "bitsandbytes")
    check_steps()
    times = speed()
    rows = [[name, f"{value:.2f}"] for name, value in times.items()]
    print_table("a step, ns a parameter", ["optimizer", "ns"], rows)
    paging = {bits: _in_a_process(bits, options.directory) for bits in ("32", "8")}
    print_table("a 300M model, AdamW, budget 256 MiB on disk", ["", *paging], _paging_rows(paging))
    write_result("optimizers", {"surroundings": found, "count": COUNT, "ns": times, "paging": paging})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where pages go; not a RAM disk")
    parser.add_argument("--worker", choices=["32", "8"], help=argparse.SUPPRESS)
    return parser.parse_args()


def check_steps() -> None:
    """Ten steps end where torch's do, to rounding, before anything is timed."""
    a, b = (nn.Parameter(torch.linspace(-1, 1, 999)) for _ in range(2))
    ours, theirs = PagedAdamW([a], lr=1e-3), torch.optim.AdamW([b], lr=1e-3)
    for step in range(10):
        a.grad = torch.cos(torch.arange(999) * (step + 1.0))
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def speed() -> dict[str, float]:
    import bitsandbytes

    makes = {
        "torch AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        "quatro AdamW, 32 bits": lambda p: PagedAdamW(p, lr=1e-3, budget="8GiB"),
        "quatro AdamW, 8 bits": lambda p: PagedAdamW(p, lr=1e-3, budget="8GiB", state_bits=8),
        "quatro Lion, 32 bits": lambda p: PagedLion(p, lr=1e-4, budget="8GiB"),
        "quatro Lion, 8 bits": lambda p: PagedLion(p, lr=1e-4, budget="8GiB", state_bits=8),
    }
    optimizers = {name: make([_parameter(COUNT)]) for name, make in makes.items()}
    timings = interleaved({name: optimizer.step for name, optimizer in optimizers.items()}, ROUNDS)
    found = {name: timing.median * 1e6 / COUNT for name, timing in timings.items()}
    small = 1_000_000  # 48 ns a parameter: fewer will do
    theirs = bitsandbytes.optim.AdamW8bit([_parameter(small)], lr=1e-3)
    try:
        timing = interleaved({"theirs": theirs.step}, 3)["theirs"]
    except (NotImplementedError, RuntimeError) as error:
        print(f"bitsandbytes' 8-bit AdamW does not run here: {str(error).splitlines()[0]}")
        return found
    return {**found, "bitsandbytes AdamW, 8 bits": timing.median * 1e6 / small}


def _parameter(count: int) -> nn.Parameter:
    p = nn.Parameter(torch.randn(count))
    p.grad = torch.randn(count) * 1e-3
    return p


def _in_a_process(bits: str, directory: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", bits, "--directory", str(directory)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def paged(bits: str, directory: Path) -> dict[str, Any]:
    """Medians of steps without and with paging, and of the raw disk; bytes and peak memory."""
    model = _model()
    before = _resident()
    optimizer = PagedAdamW(model.parameters(), lr=1e-4, state_bits=int(bits), budget=BUDGET, tier="disk", directory=directory)
    _forget_peak()
    with_pages = [_seconds(optimizer.step) for _ in range(STEPS)][2:]
    peak = _peak() - before
    started = optimizer.statistics
    optimizer.step()
    moved = optimizer.statistics
    read, written = moved.bytes_read - started.bytes_read, moved.bytes_written - started.bytes_written
    optimizer._close()
    raw = [_raw_disk(directory, read, written) for _ in range(3)]
    whole: Paged = PagedAdamW(model.parameters(), lr=1e-4, state_bits=int(bits), budget="16GiB")
    without = [_seconds(whole.step) for _ in range(STEPS)][2:]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "states_bytes": started.total,
        "peak_bytes": peak,
        "seconds_paged": _median(with_pages),
        "seconds_unpaged": _median(without),
        "seconds_raw_disk": _median(raw),
        "read_bytes": read,
        "written_bytes": written,
        "rounds": {"paged": with_pages, "unpaged": without, "raw": raw},
    }


def _paging_rows(paging: dict[str, dict[str, Any]]) -> list[list[str]]:
    def row(name: str, value: Any) -> list[str]:
        return [name, *(value(found) for found in paging.values())]

    return [
        row("states, MB", lambda f: f"{f['states_bytes'] / 1e6:,.0f}"),
        row("peak resident of the states, MiB (at most 300)", lambda f: f"{f['peak_bytes'] / 2**20:,.0f}"),
        row("a step without paging, s", lambda f: f"{f['seconds_unpaged']:.2f}"),
        row("a step with pages, s", lambda f: f"{f['seconds_paged']:.2f}"),
        row("slowdown, s", lambda f: f"{f['seconds_paged'] - f['seconds_unpaged']:.2f}"),
        row("the same bytes, raw, s", lambda f: f"{f['seconds_raw_disk']:.2f}"),
        row(
            "slowdown / raw (at most 1.10)",
            lambda f: f"{(f['seconds_paged'] - f['seconds_unpaged']) / f['seconds_raw_disk']:.2f}",
        ),
        row("read and written, MB", lambda f: f"{f['read_bytes'] / 1e6:,.0f} + {f['written_bytes'] / 1e6:,.0f}"),
    ]


def _model() -> nn.Module:
    """A Llama of 300 million parameters, each with a gradient."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=19,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-3)
    return model


def _raw_disk(directory: Path, read: int, written: int) -> float:
    """Seconds that two threads take to read and write so many bytes in pages, past the page cache."""
    whole = max(read, written) // PAGE * PAGE
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600)
    memory = [torch.ones(PAGE + 4096, dtype=torch.uint8) for _ in range(2)]
    buffers = [m[-m.data_ptr() % 4096 :][:PAGE].numpy().data for m in memory]
    try:
        os.posix_fallocate(descriptor, 0, whole)
        for begin in range(0, whole, PAGE):
            os.pwritev(descriptor, [buffers[0]], begin)

        def share(worker: int) -> None:
            for begin in range(worker * PAGE, whole, 2 * PAGE):
                if begin < written:
                    os.pwritev(descriptor, [buffers[worker]], begin)
                if begin < read:
                    os.preadv(descriptor, [buffers[worker]], begin)

        start = time.perf_counter()
        with ThreadPoolExecutor(2) as workers:
            list(workers.map(share, range(2)))
        return time.perf_counter() - start
    finally:
        os.close(descriptor)


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
