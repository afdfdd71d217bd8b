"""Packing changes what is computed together, never what is learned."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from quatro.data.collate import packed_batch, padded
from quatro.data.encode import IGNORED, Encoded
from quatro.data.packing import packed
from quatro.data.tokens import token_rows

LENGTHS = (9, 14, 5, 20, 7, 11)


def _gradients(model: PreTrainedModel, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    model(**batch, num_items_in_batch=torch.tensor(1), use_cache=False).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("capacity", [20, 32, 64])
def test_packed_and_separate_documents_give_the_same_gradients(base: Path, capacity: int) -> None:
    """With the loss as a sum, float32 differs by rounding alone; a leak of one document into the next moves them by their size."""
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 258, (length,), generator=generator).tolist() for length in LENGTHS]
    rows = token_rows(Encoded(tokens, [IGNORED, IGNORED, *tokens[2:]]) for tokens in ids)
    bins = packed(rows, capacity)
    together = packed_batch([bins[i] for i in range(len(bins))])
    expected = [sum(parts) for parts in zip(*(_gradients(model, padded([row])) for row in rows), strict=True)]
    found = _gradients(model, together)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    leaking = {**together, "position_ids": torch.arange(together["input_ids"].shape[1]).expand_as(together["input_ids"])}
    wrong = _gradients(model, leaking)
    assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(wrong, expected, strict=True)) > 1e-2
