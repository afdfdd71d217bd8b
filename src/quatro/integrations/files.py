"""Files and directories that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from quatro.format.errors import CheckpointError, MachineError


@contextmanager
def whole_directory(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `path`; it takes path's place when the block ends well, and vanishes otherwise.

    Raises CheckpointError where path holds something and overwrite is False, MachineError when the disk or its rights fail.
    """
    target = Path(path).absolute()
    _check_target(target, overwrite)
    with _machine_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
        try:
            staging.chmod(0o777 & ~_umask())
            yield staging
            for file in sorted(staging.rglob("*")):
                _flush(file)
            _swap(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes path's place when the block ends well, and vanishes otherwise."""
    target = Path(path).absolute()
    with _machine_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.parent / f".{target.name}.{os.getpid()}.partial"
        try:
            yield staging
            _flush(staging)
            staging.replace(target)
        finally:
            staging.unlink(missing_ok=True)


@contextmanager
def _machine_errors(target: Path) -> Iterator[None]:
    """The operating system's failures as one sentence; safetensors wraps them in an error of its own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineError(
            f"could not write {target}: {reason}. Nothing of it was kept; free space or choose another place"
        ) from error


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_symlink():
        raise CheckpointError(f"{target} is a link; name the directory itself")
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; name a directory")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise CheckpointError(f"{target} is not empty; choose another directory or allow overwriting it")


def _swap(staging: Path, target: Path) -> None:
    """Rename over the target; an old directory steps aside first and is deleted last, so one whole version always exists."""
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".old", dir=target.parent))
    target.rename(old / "old")
    try:
        staging.rename(target)
    except OSError:
        (old / "old").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
