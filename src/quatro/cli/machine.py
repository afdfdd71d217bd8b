"""What machine this is: processor, memory, disk, devices, libraries; nothing here needs more than torch."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("quatro", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "numpy")
INSTRUCTIONS = (
    "avx2",
    "fma3",
    "f16c",
    "avx512_f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "dotprod",
    "i8mm",
    "bf16",
    "sve",
)
"""The instruction sets, by torch's names, that matter to 4-bit products."""


@dataclass(frozen=True)
class Machine:
    """Bytes throughout; memory None where the system does not tell. memory_limit: what a container may use."""

    system: str
    processor: str
    cores: int
    cores_usable: int
    memory: int | None
    memory_available: int | None
    memory_limit: int | None
    disk_free: int
    instructions: tuple[str, ...]
    torch_threads: int


@dataclass(frozen=True)
class Cuda:
    """The NVIDIA side: devices with their memory in bytes, or why there is none."""

    devices: tuple[tuple[str, int], ...]
    absent: str | None


def look() -> Machine:
    """This machine, as this process may use it."""
    import torch

    memory = _meminfo()
    return Machine(
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        cores_usable=_usable_cores(),
        memory=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        memory_limit=_container_limit(),
        disk_free=shutil.disk_usage(Path.cwd()).free,
        instructions=_instructions(),
        torch_threads=torch.get_num_threads(),
    )


def cuda() -> Cuda:
    """The CUDA devices, or a clause that says why there are none."""
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Cuda(tuple((found.name, found.total_memory) for found in properties), None)
    if torch.version.cuda is None:
        return Cuda((), f"this build of torch ({torch.__version__}) is without CUDA")
    return Cuda((), "no NVIDIA card or driver answers")


def has_nvidia_card() -> bool:
    """Whether the system shows an NVIDIA device, whatever torch thinks of it."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def versions() -> dict[str, str | None]:
    """Installed versions of the libraries that decide about results; None for what is not there."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    if name == "quatro":
        import quatro

        return quatro.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return next((name for name in names if name), platform.processor() or platform.machine())


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _meminfo() -> dict[str, int]:
    info = Path("/proc/meminfo")
    if not info.exists():
        return {"MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")} if hasattr(os, "sysconf") else {}
    rows = (line.split() for line in info.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}


def _container_limit() -> int | None:
    """The control group's limit, as Docker and Slurm set it; None where there is none."""
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def _instructions() -> tuple[str, ...]:
    import torch

    told = getattr(torch.cpu, "get_capabilities", dict)()
    return tuple(name for name in INSTRUCTIONS if told.get(name))
