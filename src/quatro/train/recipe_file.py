"""From a YAML file and key=value overrides to a recipe."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from quatro.format.errors import RecipeError, did_you_mean
from quatro.train.aliases import path_of, without_aliases
from quatro.train.arguments import argument_types, nearest
from quatro.train.recipe import Recipe, recipe_of

FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """YAML where 2e-4 is a number, which YAML 1.1 takes for a word."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:float"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe in a YAML file, with overrides such as "train.learning_rate=1e-4". Raises RecipeError."""
    return recipe_of(with_overrides(read_yaml(path), overrides))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises RecipeError where there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a directory" if file.is_dir() else "does not exist"
        raise RecipeError(f"recipe {file} {what}; {_neighbors(file)}")
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is not YAML: {_said(error)}") from None
    if not isinstance(values, dict):
        said = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise RecipeError(f"{file} {said}; a recipe is a mapping with model, data and output_dir")
    return values


def parse_yaml(text: str) -> Any:
    """One YAML value. 2e-4 is a number."""
    return yaml.load(text, _Loader)


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The values with each key=value put in its place. Raises RecipeError for a path that is no key of a recipe."""
    return with_values(without_aliases(values), dict(map(_split, overrides)))


def with_values(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The values with others put at their dotted paths. Raises RecipeError where a path leads through what is no section."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for path, value in others.items():
        *sections, key = path.split(".")
        target: Any = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise RecipeError(f"{path} cannot be set: {section} is {target!r}, not a section with keys")
        target[key] = value
    return result


def _split(override: str) -> tuple[str, Any]:
    path, equals, text = override.partition("=")
    path = path_of(path.strip().lstrip("-"))
    if not equals:
        raise RecipeError(f"{override!r} is no override; write key=value, e.g. train.learning_rate=1e-4")
    _check_path(path)
    try:
        return path, parse_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of {path} is not YAML: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def _check_path(path: str) -> None:
    known = recipe_paths()
    if path in known or (path.startswith("train.") and path.count(".") == 1):
        return
    same_key = [name for name in known if name.rpartition(".")[2] == path]
    guess = f"did you mean {' or '.join(map(repr, same_key))}?" if same_key else nearest(path, known)
    raise RecipeError(f"unknown key {path!r}; {guess}")


def recipe_paths() -> list[str]:
    """Every dotted path that a recipe can have."""
    own = [path for name, field in Recipe.model_fields.items() if name != "train" for path in _paths(name, field.annotation)]
    return [*own, *(f"train.{name}" for name in argument_types())]


def _paths(name: str, annotation: Any) -> list[str]:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return [f"{name}.{inner}" for inner in kind.model_fields]
    return [name]


def _neighbors(file: Path) -> str:
    names = sorted(child.name for pattern in ("*.yaml", "*.yml") for child in file.parent.glob(pattern))
    return did_you_mean(file.name, names) if names else "give the path of a YAML file, or the name of a packaged recipe"
