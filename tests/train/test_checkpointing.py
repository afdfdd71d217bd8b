from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from quatro.kernels import native
from quatro.train.checkpointing import checkpoint_layers, keep_products
from quatro.train.model import adapted_model
from quatro.train.recipe import Recipe
from quatro.train.run import train

LINEAR_LAYERS = 12
"""Of the tiny Llama, six in each of two layers: the seventh has rows of 96, which blocks of 64 do not divide."""


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every product with a 4-bit weight."""
    seen: list[int] = []
    product = native.integer_linear

    def counted(x: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(x.shape[0])
        return product(x, *others)

    monkeypatch.setattr(native, "integer_linear", counted)
    return seen


def gradients(recipe: Recipe, prepare: Callable[[Any], None]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = adapted_model(recipe).train()
    prepare(model)
    torch.manual_seed(1)
    ids = torch.randint(0, 200, (2, 24))
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_kept_products_give_the_same_gradients_and_are_not_computed_again(
    recipe: Callable[..., Recipe], products: list[int]
) -> None:
    """With dropout: the masks of the backward pass must be those of the forward pass."""
    plain = gradients(recipe(), lambda model: None)
    assert len(products) == LINEAR_LAYERS
    for prepare, again in ((keep_products, 0), (partial(checkpoint_layers, use_reentrant=False), LINEAR_LAYERS)):
        products.clear()
        found = gradients(recipe(), prepare)
        assert len(products) == LINEAR_LAYERS + again
        assert found.keys() == plain.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, plain[name], rtol=0, atol=0)


def test_what_a_recipe_says_about_checkpointing_is_done(
    recipe: Callable[..., Recipe], products: list[int], tmp_path: Path
) -> None:
    steps = {"max_steps": 1, "eval_strategy": "no", "gradient_checkpointing": True, "gradient_accumulation_steps": 1}
    counts = []
    for directory, kwargs in (("kept", None), ("computed", {"use_reentrant": False})):
        products.clear()
        said = {"gradient_checkpointing_kwargs": kwargs} if kwargs else {}
        train(recipe(train={**steps, **said}, data={"eval": None}, output_dir=str(tmp_path / directory)))
        counts.append(len(products))
    assert counts[1] == counts[0] + LINEAR_LAYERS
