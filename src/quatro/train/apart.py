"""Do packed documents stay apart in this model? Asked of the model itself, before a run relies on it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quatro.format.errors import RecipeError

TOLERANCE = 2e-2
"""Relative to the largest logit. A leak changes logits by about their own size; rounding in 16 bits by less than 1e-2."""


def check_documents_stay_apart(model: nn.Module, vocabulary: int) -> None:
    """Raises RecipeError if a packed document sees its neighbor, or if its first token does not stand at position 0."""
    leak = leakage(model, _probe(vocabulary))
    if not leak < TOLERANCE:
        raise RecipeError(
            f"data.packing: in this model packed documents read each other (logits move by {leak:.2f} of their size). "
            "Set data.packing to false"
        )


@torch.no_grad()
def leakage(model: nn.Module, documents: Sequence[Tensor]) -> float:
    """Largest change of a logit between documents in one packed row and each alone, over the largest logit."""
    was_training = model.training
    model.eval()
    try:
        packed = _logits(model, torch.cat(list(documents)), torch.cat([torch.arange(len(ids)) for ids in documents]))
        alone = torch.cat([_logits(model, ids, torch.arange(len(ids))) for ids in documents])
    finally:
        model.train(was_training)
    return float((packed - alone).abs().max() / alone.abs().max())


def _logits(model: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
    device = next(model.parameters()).device
    found = model(input_ids=ids[None].to(device), position_ids=positions[None].to(device), use_cache=False)
    logits: Tensor = found.logits[0].float().cpu()
    return logits


def _probe(vocabulary: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocabulary, (length,), generator=generator) for length in (7, 5, 9)]
