"""Names of other tools in a recipe."""

from typing import Any

import pytest

from quatro.format.errors import RecipeError
from quatro.train.aliases import ALIASES
from quatro.train.recipe import recipe_of
from quatro.train.recipe_file import with_overrides

LEAST: dict[str, Any] = {"model": "m", "data": {"train": "d"}, "output_dir": "o"}


def value_at(recipe: Any, path: str) -> Any:
    found = recipe.as_dict()
    for key in path.split("."):
        found = found[key]
    return found


PLACES = [
    (alias, inside)
    for alias, meant in ALIASES.items()
    for inside in (True, False)
    if meant != "model" and not (inside and meant.endswith(f".{alias}"))
]


@pytest.mark.parametrize(("alias", "inside"), PLACES)
def test_an_alias_is_taken_and_named_in_the_log(alias: str, inside: bool, caplog: pytest.LogCaptureFixture) -> None:
    meant = ALIASES[alias]
    section = meant.rpartition(".")[0]
    values = {**LEAST, section: {**LEAST.get(section, {}), **({alias: 16} if inside else {})}}
    values |= {} if inside else {alias: 0.5 if alias == "lora_dropout" else 16}
    assert value_at(recipe_of(values), meant) == (0.5 if alias == "lora_dropout" else 16)
    assert f"is read as {meant}" in caplog.text


def test_an_override_may_use_one_too() -> None:
    assert recipe_of(with_overrides(LEAST, ["cutoff_len=128", "lora_rank=4"])).data.max_length == 128


def test_an_override_goes_over_a_file_s_alias() -> None:
    assert recipe_of(with_overrides({**LEAST, "lora_rank": 8}, ["lora.r=4"])).lora.r == 4


def test_the_base_may_be_called_base_model() -> None:
    values = {key: value for key, value in LEAST.items() if key != "model"}
    assert recipe_of({**values, "base_model": "theirs"}).model == "theirs"


def test_an_alias_beside_what_it_means_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"lora_rank and lora.r mean the same"):
        recipe_of({**LEAST, "lora": {"r": 8}, "lora_rank": 16})


def test_an_alias_in_a_foreign_section_is_an_unknown_key() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'data.lora_rank'"):
        recipe_of({**LEAST, "data": {"train": "d", "lora_rank": 3}})
