"""From what a person names to a plan: a configuration's values, a file, a directory, a published name, or a hub id."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quatro.format.errors import CheckpointError, InputError, did_you_mean
from quatro.planner.models import skeleton_of
from quatro.planner.names import KNOWN
from quatro.planner.plan import Plan, plan_skeleton
from quatro.planner.settings import DTYPES, Settings

Model = str | Path | Mapping[str, Any]
Fetch = Callable[[str], Mapping[str, Any]]
"""A hub id -> the values of its config.json; handed in from above, since a planner asks no network."""


def plan(model: Model, *, fetch: Fetch | None = None, **settings: Any) -> Plan:
    """What training `model` takes, part by part.

    model: the values of a config.json; a path to one, or to a model's directory; a published name ("llama-7b", "gpt-j-6b"); or, with
        `fetch`, a hub id. settings: the fields of quatro.planner.settings.Settings: method, r, targets, batch, length, accumulation, optim,
        checkpointing, dropout, dtype, compute, device, budget, threads, spec.
    Raises InputError for what cannot be meant, CheckpointError for a file that cannot be read.
    """
    config = configuration(model, fetch)
    return plan_skeleton(skeleton_of(config), settings_for(config, settings))


def settings_for(config: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """The settings, with the checkpoint's own dtype where none is asked for. Raises InputError for one that does not exist."""
    unknown = given.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        name = min(unknown)
        raise InputError(f"a plan has no setting {name!r}; {did_you_mean(name, Settings.__dataclass_fields__)}")
    stated = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    chosen = Settings(**given)
    return replace(chosen, dtype=stated) if "dtype" not in given and stated in DTYPES else chosen


def configuration(model: Model, fetch: Fetch | None = None) -> Mapping[str, Any]:
    """The values of a model's config.json. Raises InputError or CheckpointError."""
    if isinstance(model, Mapping):
        return model
    if not str(model):
        raise InputError(f"the model's name is empty; name a directory, a config.json, a hub id, or one of {', '.join(KNOWN)}")
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{model} has no config.json, so it is not a model directory")
    if path.is_file():
        return read_configuration(path)
    if str(model).lower() in KNOWN:
        return KNOWN[str(model).lower()]
    if path.suffix == ".json":
        raise CheckpointError(f"{model} does not exist; name a config.json that does, or a model's directory")
    if fetch is None or _is_no_hub_id(str(model)):
        raise InputError(
            f"{str(model)!r} is neither a file, nor a directory with a config.json, nor a published model that the planner knows, nor owner/name of a hub; "
            f"{did_you_mean(str(model), KNOWN)}"
        )
    return fetch(str(model))


def _is_no_hub_id(name: str) -> bool:
    return name.count("/") != 1 or name.startswith(("/", ".", "~"))


def read_configuration(path: Path) -> dict[str, Any]:
    """The values of a config.json. Raises CheckpointError for a file that holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable config.json: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object; it is not a model's configuration")
    return found
