from pathlib import Path

import pytest

from quatro.format.errors import RecipeError
from quatro.train.recipe_file import load_recipe, parse_yaml, recipe_paths, with_overrides, with_values

TEXT = """
model: m
data: {train: a.jsonl, eval: 0.1}
train: {learning_rate: 2e-4}
output_dir: runs/x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-4", 2e-4), ("1E3", 1000.0), ("2.0e-4", 2e-4), (".5", 0.5), ("-1.5", -1.5), ("12", 12), ("1_000", 1000), ("a2e4", "a2e4"),
     ("1.2.3", "1.2.3"), ("null", None), ("true", True), ("[q_proj, v_proj]", ["q_proj", "v_proj"])],
)  # fmt: skip
def test_yaml_numbers_are_what_people_mean(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_overrides_are_yaml_values_at_dotted_paths(file: Path) -> None:
    found = load_recipe(
        file, ["train.learning_rate=1e-3", "lora.r=4", "data.eval=null", "lora.target_modules=[q_proj]", "model=n"]
    )
    assert (found.train["learning_rate"], found.lora.r, found.data.eval, found.model) == (1e-3, 4, None, "n")
    assert found.lora.target_modules == ("q_proj",)
    assert load_recipe(file).train["learning_rate"] == 2e-4


def test_overrides_do_not_touch_the_values_they_go_over() -> None:
    values = {"data": {"train": "a"}}
    assert with_overrides(values, ["data.train=b"]) == {"data": {"train": "b"}}
    assert values == {"data": {"train": "a"}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learning_rate=1", r"unknown key 'learning_rate'; did you mean 'train.learning_rate'\?"),
        ("data.max_lenght=5", r"unknown key 'data.max_lenght'; did you mean 'data.max_length'"),
        ("train.learning_rat=1", r"unknown key 'train.learning_rat'; did you mean 'learning_rate'\?"),
        ("fast", "'fast' is no override; write key=value"),
        ("data.eval=[1", "the value of data.eval is not YAML"),
    ],
)
def test_overrides_that_cannot_be_meant_are_refused(file: Path, override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(file, [override])


def test_a_path_through_a_plain_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="data.train cannot be set: data is 'a.jsonl', not a section"):
        with_values({"data": "a.jsonl"}, {"data.train": "b"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "holds a list; a recipe is a mapping"),
        ("", "is empty; a recipe is a mapping"),
        ("a: [b", "is not YAML: .*line 1"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_recipe(file)


def test_a_missing_file_is_refused_with_the_nearest(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"onw.yaml does not exist; did you mean 'own.yaml'\?"):
        load_recipe(file.with_name("onw.yaml"))
    with pytest.raises(RecipeError, match="is a directory; did you mean|is a directory; give the path|is a directory; choose"):
        load_recipe(file.parent)


def test_every_path_is_one_that_a_recipe_takes() -> None:
    assert {"model", "quantization.quant_type", "lora.r", "data.packing", "train.learning_rate", "output_dir"} <= set(
        recipe_paths()
    )
