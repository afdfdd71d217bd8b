"""Will a run fit, and did it take what was planned? The plan of a recipe, the memory that is free, and the peak that was reached."""

import ctypes
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quatro.format.errors import InputError, MachineError
from quatro.format.spec import QuantSpec
from quatro.planner.asking import configuration, settings_for
from quatro.planner.largest import Largest, largest
from quatro.planner.models import skeleton_of
from quatro.planner.plan import Plan, plan_skeleton
from quatro.planner.settings import Settings
from quatro.planner.skeleton import Skeleton
from quatro.train.recipe import Recipe

logger = logging.getLogger("quatro")


M_MMAP_THRESHOLD, MAPPED_FROM = -3, 1 << 17
"""glibc's mallopt(3): allocations from so many bytes on are mappings of their own."""
ROOM = 1.5
"""Of a plan, below which free memory is short: what a heap's gaps may cost."""


@dataclass(frozen=True)
class RunPlan:
    """A recipe's plan, and what it was made of."""

    plan: Plan
    skeleton: Skeleton
    settings: Settings

    def line(self) -> str:
        """What it takes, and its largest parts."""
        parts = sorted(self.plan.parts.items(), key=lambda item: -item[1].bytes)[:3]
        told = ", ".join(f"{name} {size_text(part.bytes)}" for name, part in parts)
        return f"planned memory {size_text(self.plan.total)}: {told}"

    def is_short(self, free: int | None) -> bool:
        """Whether the run fits on a CPU only if its heap keeps nothing that was freed."""
        return free is not None and self.settings.device == "cpu" and self.plan.total * ROOM > free

    def check(self, free: int | None) -> None:
        """Raise MachineError, naming what would fit, where the run needs more than is free."""
        if free is None or self.plan.total <= free:
            return
        ways = largest(self.skeleton, self.settings, free)
        raise MachineError(
            f"this run is planned to take {size_text(self.plan.total)}, and {size_text(free)} are free; {_advice(ways, self.settings)}. "
            "`quatro plan` shows its parts, and --force starts it all the same"
        )


def run_plan(recipe: Recipe, length: int) -> RunPlan | None:
    """The plan of a recipe whose longest sequence has `length` tokens; None, with a note, for what the planner does not know."""
    try:
        config = configuration(_config_file(recipe.model), None)
        skeleton = skeleton_of(config)
        settings = settings_for(config, _asked(recipe, length))
        return RunPlan(plan_skeleton(skeleton, settings), skeleton, settings)
    except InputError as error:
        logger.warning("memory is not planned before this run: %s", error)
        return None


def free_memory() -> int | None:
    """Bytes that this process may still take on the device it trains on; None where nobody says."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    found = [_available(), _of_the_group()]
    known = [size for size in found if size is not None]
    return min(known, default=None)


def give_back_at_once() -> bool:
    """Let the C library return every larger tensor's pages when it is freed, as plans assume; whether it has such a switch.

    glibc's heap keeps them in gaps between other tensors otherwise: 14 to 95 % more than a run needs (docs/planning.md). Pages that come
    anew are zeroed first, so steps take a third longer.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM))
    except (OSError, AttributeError):
        return False


class PeakMemory:
    """The most memory above what was taken when this was made: resident on a CPU, allocated on a GPU."""

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            _forget_peak()
        self._before = torch.cuda.memory_allocated() if self._on_gpu else _status("VmRSS")

    def bytes(self) -> int | None:
        """So far; None where the system does not say."""
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)


def _config_file(model: str) -> Path:
    """A hub id's configuration is in the cache by now: its tokenizer was read."""
    from quatro.integrations.sources import source_directory

    return source_directory(model) / "config.json"


def _asked(recipe: Recipe, length: int) -> dict[str, Any]:
    train, chosen, targets = recipe.train, recipe.quantization, recipe.lora.target_modules
    on_gpu = torch.accelerator.is_available()
    compute = "bfloat16" if train.get("bf16") else "float16" if train.get("fp16") else "float32"
    return {
        "method": recipe.method,
        "r": recipe.lora.r,
        "targets": targets if isinstance(targets, str) else list(targets),
        "batch": train["per_device_train_batch_size"],
        "length": length,
        "accumulation": train["gradient_accumulation_steps"],
        "optim": train["optim"],
        "checkpointing": _checkpointing(recipe),
        "dropout": recipe.lora.lora_dropout,
        "compute": compute,
        "device": "gpu" if on_gpu else "cpu",
        "budget": recipe.optimizer.budget,
        "threads": torch.get_num_threads(),
        "spec": QuantSpec(chosen.quant_type, chosen.block_size, chosen.double_quant),
    }


def _checkpointing(recipe: Recipe) -> str:
    if recipe.activations is not None:
        return "all"
    if not recipe.train.get("gradient_checkpointing"):
        return "none"
    return "all" if recipe.train.get("gradient_checkpointing_kwargs") else "products"


def _advice(ways: list[Largest], asked: Settings) -> str:
    fitting = next((way for way in ways if way.fits and way.changes), None)
    if fitting is not None:
        return f"it would fit if you {' and '.join(fitting.changes)} ({size_text(fitting.total)})"
    last = ways[-1]
    smaller = [
        f"{name} {value:,} instead of {given:,}"
        for name, value, given in (
            ("a batch of", last.batch, asked.batch),
            ("a length of", last.length, asked.length),
            ("a rank of", last.r, asked.r),
        )
        if 0 < value < given
    ]
    also = f"{' and '.join(last.changes)}, and choose " if last.changes else "choose "
    return (
        f"to fit, {also}{' or '.join(smaller)}"
        if smaller
        else "no batch, length or rank of this model fits: choose a smaller one"
    )


def _available() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable")


def _of_the_group() -> int | None:
    """What a container's limit leaves."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, taken = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return None
    return max(0, limit - taken)


def _status(name: str) -> int | None:
    return _field(Path("/proc/self/status"), name)


def _field(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def size_text(size: int) -> str:
    """In GiB, or MiB below one."""
    return f"{size / 2**30:,.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:,.0f} MiB"
