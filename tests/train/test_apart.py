from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from quatro.format.errors import RecipeError
from quatro.train.apart import check_documents_stay_apart, leakage

DOCUMENTS = [torch.tensor([5, 6, 7, 8]), torch.tensor([9, 10, 11])]


class Averaging(nn.Module):
    """A model that reads everything before a token, whatever the positions say."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(258, 16)

    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        hidden = self.embedding(input_ids).cumsum(1) / torch.arange(1, input_ids.shape[1] + 1)[None, :, None]
        return SimpleNamespace(logits=hidden @ self.embedding.weight.T)


def test_documents_stay_apart_in_a_llama(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    assert leakage(model, DOCUMENTS) < 1e-5
    model.train()
    check_documents_stay_apart(model, 258)
    assert model.training, "the mode is given back"


def test_a_model_that_reads_across_documents_is_refused() -> None:
    with pytest.raises(RecipeError, match="packed documents read each other .* Set data.packing to false"):
        check_documents_stay_apart(Averaging(), 258)
