from pathlib import Path

import pytest

from quatro.format.errors import RecipeError
from quatro.recipes import load_recipe, named_recipe, packaged_names


@pytest.mark.parametrize("name", packaged_names())
def test_every_packaged_recipe_is_valid(name: str) -> None:
    data = [] if name == "demo" else ["data.train=mine.jsonl"]
    assert named_recipe(name, data).output_dir == f"runs/{name}"


def test_the_demo_uses_what_is_embedded() -> None:
    recipe = load_recipe("demo", ["train.max_steps=3"])
    assert recipe.train["max_steps"] == 3
    for path, end in ((recipe.model, "assets/base"), (recipe.data.train, "assets/company/train.jsonl")):
        assert Path(path).is_absolute()
        assert Path(path).as_posix().endswith(f"quatro/{end}")
    assert Path(recipe.data.train).is_file()
    assert Path(str(recipe.data.eval)).is_file()


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'dmeo'; did you mean 'demo'\?"):
        load_recipe("dmeo")


def test_a_file_of_the_user_comes_before_a_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").write_text("model: mine\ndata: {train: a.jsonl}\noutput_dir: x\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo").model == "mine"
    assert named_recipe("demo").model != "mine"
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe("own/demo.yaml")
