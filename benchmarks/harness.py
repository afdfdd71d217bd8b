"""What every benchmark needs: interleaved timing, what the machine and its memory can do, and a result file that says where it is from."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of every round of one contender."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, Timing]:
    """Each contender once a round, in turn, after one warm-up: a noisy neighbor then slows all of them alike.

    calls: how often a turn runs it; a turn's time is the mean of one call.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(calls):
                result = run()
                del result  # freed before the next one allocates
            elapsed = (time.perf_counter() - start) * 1e3 / calls
            if turn:
                times[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in times.items()}


def memory_bandwidth(rounds: int = 9) -> dict[str, float]:
    """GB/s of torch on 256 MiB, all threads: reading (sum) and writing (fill)."""
    buffer = torch.ones(2**26)
    timings = interleaved({"read": buffer.sum, "write": lambda: buffer.fill_(1.0)}, rounds)
    return {name: buffer.nbytes / timing.median / 1e6 for name, timing in timings.items()}


def surroundings(*packages: str) -> dict[str, Any]:
    """Machine, versions and commit, as a result file records them."""
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "commit": _commit(),
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(part for line in lines if len(part := tuple(p.strip() for p in line.split(":", 1))) == 2)
    return f"{fields.get('model name', platform.processor())} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return described.stdout.strip() or "unknown"
