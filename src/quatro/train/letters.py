"""pydantic's complaints, as one letter to the author of a recipe."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from quatro.format.errors import did_you_mean


def recipe_letter(error: ValidationError, model: type[BaseModel]) -> str:
    """All that is wrong, one clause each."""
    return "; ".join(dict.fromkeys(_clause(found, model) for found in error.errors()))


def _clause(found: Any, model: type[BaseModel]) -> str:
    names = [str(part) for part in found["loc"] if isinstance(part, str) and _is_key(part)]
    path = ".".join(names)
    match found["type"]:
        case "extra_forbidden":
            return f"unknown key {path!r}; {did_you_mean(names[-1], _section(model, names[:-1]).model_fields)}"
        case "missing":
            hint = ", which --data names on the command line" if path == "data.train" else ""
            return f"the recipe needs {path!r}{hint}"
        case "value_error":
            return _without_prefix(f"{path}: " if path else "", found["msg"])
    return f"{path} is {found['input']!r}: {found['msg']}"


def _is_key(part: str) -> bool:
    """pydantic puts the names of types among a path's parts where a value may be of several."""
    return part.isidentifier() and part not in ("str", "int", "float", "bool", "constrained")


def _section(model: type[BaseModel], names: list[str]) -> type[BaseModel]:
    for name in names:
        annotation = model.model_fields[name].annotation
        for kind in (annotation, *get_args(annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return model


def _without_prefix(path: str, message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text if text.startswith(("train", "unknown")) else path + text
