"""A model's config.json, read field by field: what is needed and missing is named."""

from collections.abc import Mapping
from typing import Any

from quatro.format.errors import InputError


class Fields:
    """The values of a configuration. Raises InputError for a field that is needed and missing, or is no sensible number."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.model_type = str(config.get("model_type"))

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of `least` or more under the first of these names that is there; null is missing."""
        for name in names:
            value = self.config.get(name)
            if value is not None:
                return self._whole(name, value, least)
        if default is None:
            raise InputError(
                f"the configuration of this {self.model_type} model has no {' or '.join(names)}, which a plan needs; "
                "take the config.json that came with the weights"
            )
        return default

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.config.get(name)
        return default if value is None else bool(value)

    def share(self, name: str, default: float) -> float:
        """A number from 0 to 1."""
        value = self.config.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{name} of this {self.model_type} model's configuration is {value!r}; it must be from 0 to 1")
        return float(value)

    def words(self, name: str) -> list[str]:
        """A list of words, empty where there is none."""
        value = self.config.get(name)
        return [str(word) for word in value] if isinstance(value, list | tuple) else []

    def text(self, *names: str, default: str) -> str:
        """The first of these names that is there."""
        return next((str(self.config[name]) for name in names if self.config.get(name) is not None), default)

    def _whole(self, name: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{name} of this {self.model_type} model's configuration is {value!r}; it must be a whole number of {least} or more"
            )
        return value
