from typing import Any

import pytest
from pydantic import ValidationError

from quatro.format.errors import RecipeError
from quatro.train.recipe import DEFAULTS, recipe_of, recipe_schema

LEAST = {"model": "m", "data": {"train": "a.jsonl"}, "output_dir": "runs/x"}


def _with(section: str, **values: Any) -> dict[str, Any]:
    kept = LEAST.get(section, {})
    return {**LEAST, section: {**kept, **values}}


def test_a_recipe_is_complete_however_little_was_said() -> None:
    found = recipe_of(LEAST).as_dict()
    assert set(found) == {"model", "method", "quantization", "lora", "data", "train", "optimizer", "output_dir"}
    assert found["quantization"] == {"quant_type": "nf4", "block_size": 64, "double_quant": True, "compute_dtype": "auto"}
    assert found["lora"] == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "target_parameters": [],
        "init": "default",
    }
    assert found["train"] == DEFAULTS
    assert recipe_of(found) == recipe_of(LEAST), "a resolved recipe means the same run"


def test_what_is_said_goes_over_the_defaults() -> None:
    found = recipe_of(_with("train", max_steps=7, learning_rate="1e-4"))
    assert found.train == {**DEFAULTS, "max_steps": 7, "learning_rate": 1e-4}
    assert recipe_of(_with("lora", target_modules=["q_proj"])).lora.target_modules == ("q_proj",)
    assert recipe_of(_with("data", eval=0)).data.eval is None


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe_of(LEAST).model = "other"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "m"}, "the recipe needs 'data'; the recipe needs 'output_dir'"),
        ({**LEAST, "lore": {}}, r"unknown key 'lore'; did you mean 'lora'\? choose one of activations, data"),
        (_with("lora", lora_alfa=3), r"unknown key 'lora.lora_alfa'; did you mean 'lora_alpha'\?"),
        (_with("lora", r=0), "lora.r is 0: Input should be greater than 0"),
        (_with("lora", lora_dropout=1.0), "lora.lora_dropout is 1.0"),
        (_with("lora", init="pissa"), "lora.init is 'pissa': Input should be 'default'"),
        (_with("data", max_lenght=5), r"unknown key 'data.max_lenght'; did you mean 'max_length'\?"),
        (_with("data", eval=1.5), "data.eval is 1.5"),
        (_with("data", loss_on="answers"), "data.loss_on is 'answers': Input should be 'assistant' or 'all'"),
        (_with("quantization", quant_type="nf5"), r"unknown quant_type 'nf5'; did you mean 'nf4'\?"),
        (_with("quantization", block_size=48), "block_size 48 is not allowed; choose one of 32, 64"),
        (_with("quantization", compute_dtype="int8"), "quantization.compute_dtype is 'int8'"),
        ({**LEAST, "method": "full"}, "method full comes with a later release; choose qlora .* or lora"),
        ({**LEAST, "method": "qlorra"}, "method is 'qlorra'"),
        ({**LEAST, "method": "lora", "quantization": {}}, "quantization has no effect with method lora"),
        ({**LEAST, "train": {"optim": "sgd"}, "optimizer": {"budget": "1GiB"}}, "has no effect with train.optim sgd"),
        ({**LEAST, "optimizer": {"budget": "12 gigs"}}, "size '12 gigs' cannot be read"),
        ({**LEAST, "optimizer": {"tier": "cloud"}}, "optimizer.tier is 'cloud'"),
        ({**LEAST, "optimizer": {"budgets": 1}}, r"unknown key 'optimizer.budgets'; did you mean 'budget'\?"),
        (_with("train", learning_rat=1), r"unknown key 'train.learning_rat'; did you mean 'learning_rate'\?"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe_of(values)


def test_a_lora_recipe_shows_no_quantization() -> None:
    assert "quantization" not in recipe_of({**LEAST, "method": "lora"}).as_dict()


def test_the_schema_takes_what_a_recipe_takes_and_refuses_what_it_refuses() -> None:
    from jsonschema import Draft202012Validator

    checker = Draft202012Validator(recipe_schema())
    assert not list(checker.iter_errors(LEAST))
    assert not list(checker.iter_errors(recipe_of(LEAST).as_dict()))
    for wrong in ({**LEAST, "lore": {}}, _with("train", learning_rates=1), _with("lora", r="four")):
        assert list(checker.iter_errors(wrong))
