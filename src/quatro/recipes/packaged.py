"""The recipes that are shipped, by name."""

from collections.abc import Iterable
from functools import reduce
from importlib.resources import files
from operator import truediv
from pathlib import Path
from typing import Any

from quatro.format.errors import RecipeError, did_you_mean
from quatro.train.recipe import Recipe, recipe_of
from quatro.train.recipe_file import parse_yaml, read_yaml, with_overrides

ASSET = "asset:"
"""What a value of a packaged recipe begins with that names a file among quatro.assets."""


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A packaged recipe by name, or one in a YAML file, with key=value overrides. Raises RecipeError."""
    return recipe_of(with_overrides(recipe_values(name_or_path), overrides))


def named_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A packaged recipe, whatever files there are. Raises RecipeError."""
    return recipe_of(with_overrides(_packaged(name), overrides))


def recipe_values(name_or_path: str | Path) -> dict[str, Any]:
    """The plain values of a recipe, before they are checked. A file of the user's comes before a packaged name."""
    text = str(name_or_path)
    if Path(text).expanduser().is_file() or text.endswith((".yaml", ".yml")) or "/" in text:
        return read_yaml(text)
    return _packaged(text)


def _packaged(name: str) -> dict[str, Any]:
    if name not in packaged_names():
        raise RecipeError(f"no recipe {name!r}; {did_you_mean(name, packaged_names())}, or give a YAML file")
    values: dict[str, Any] = _resolved(parse_yaml((files("quatro.recipes") / f"{name}.yaml").read_text(encoding="utf-8")))
    return values


def packaged_names() -> list[str]:
    """All of them, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in files("quatro.recipes").iterdir() if file.name.endswith(".yaml"))


def _resolved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith(ASSET):
        return str(reduce(truediv, value.removeprefix(ASSET).split("/"), files("quatro.assets")))
    return value
