"""What stands in a run's directory, and may this run use it? New, go on from a checkpoint, or refuse."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quatro.format.errors import RecipeError
from quatro.integrations.files import whole_file
from quatro.train.recipe import Recipe

RECIPE, REPORT, FIGURE, LOG = "recipe.yaml", "report.md", "loss.png", "trainer_state.json"
WEIGHTS = "adapter_model.safetensors"
CHECKPOINT = "checkpoint-"
TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
OURS = (RECIPE, REPORT, FIGURE, LOG, "adapter_*", *TOKENIZER_FILES)
"""Names that a run writes."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A place that this run may use. checkpoint: where it goes on from, None to start. clear: delete an older run first."""

    path: Path
    checkpoint: Path | None = None
    clear: bool = False

    def begin(self, recipe: Recipe) -> None:
        """Make the directory ready: nothing of an older run, nothing half-written, and the recipe as it was resolved."""
        if self.clear:
            _clear(self.path)
        _remove_torn(self.path)
        with whole_file(self.path / RECIPE) as file:
            file.write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def open_directory(recipe: Recipe, resume: bool = False, overwrite: bool = False) -> RunDirectory:
    """Decide where this run may stand; nothing is changed before `begin`.

    The same recipe's unfinished run goes on from its last whole checkpoint. Raises RecipeError where something else is there.
    """
    path = Path(recipe.output_dir).expanduser()
    if path.exists() and not path.is_dir():
        raise RecipeError(f"output_dir {path} is a file; name a directory")
    if not path.exists() or not any(path.iterdir()):
        return _new(path, resume)
    if not (path / RECIPE).is_file():
        raise RecipeError(f"output_dir {path} is not empty and holds no run of quatro; name a new directory")
    if overwrite:
        return RunDirectory(path, clear=True)
    _check_same(recipe, path)
    if is_finished(path):
        raise RecipeError(
            f"output_dir {path} holds this run, finished; say --overwrite to do it again, or name another output_dir"
        )
    checkpoint = last_checkpoint(path)
    return RunDirectory(path, checkpoint) if checkpoint else _new(path, resume)


def is_finished(path: Path) -> bool:
    """Whether a run was written to its end."""
    return (path / REPORT).is_file() and (path / WEIGHTS).is_file()


def last_checkpoint(path: Path) -> Path | None:
    """The whole checkpoint with the highest step."""
    return max((found for found in _checkpoints(path) if is_whole(found)), key=_step, default=None)


def is_whole(checkpoint: Path) -> bool:
    """The state is written last: where it can be read, everything before it is there."""
    try:
        json.loads((checkpoint / LOG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (checkpoint / WEIGHTS).is_file()


def _new(path: Path, resume: bool) -> RunDirectory:
    if resume:
        raise RecipeError(f"--resume: {path} holds no checkpoint to go on from; leave --resume out to start")
    return RunDirectory(path)


def _check_same(recipe: Recipe, path: Path) -> None:
    kept = yaml.safe_load((path / RECIPE).read_text(encoding="utf-8"))
    differ = _differences(kept if isinstance(kept, dict) else {}, recipe.as_dict())
    if differ:
        raise RecipeError(
            f"output_dir {path} holds a run of another recipe ({'; '.join(differ[:6])}); say --overwrite to replace it, "
            "or name another output_dir"
        )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and f"{prefix}{key}" != "output_dir":
            found.append(f"{prefix}{key}: {a} there, {b} here")
    return found


def _clear(path: Path) -> None:
    for checkpoint in _checkpoints(path):
        shutil.rmtree(checkpoint)
    for pattern in OURS:
        for file in path.glob(pattern):
            file.unlink()


def _remove_torn(path: Path) -> None:
    for checkpoint in _checkpoints(path):
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint)


def _checkpoints(path: Path) -> list[Path]:
    return [found for found in path.glob(f"{CHECKPOINT}*") if found.is_dir() and found.name.removeprefix(CHECKPOINT).isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT))
