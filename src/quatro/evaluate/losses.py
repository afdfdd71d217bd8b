"""How surprised a model is by answers it never saw: the mean negative log-likelihood of their tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quatro.data.encode import IGNORED

MOST_LOGITS = 2**27
"""Logits of one batch: half a GiB in float32."""


class Labelled(Protocol):
    """What the loss reads of an encoded example: token ids, and the same with -100 where no loss is taken."""

    @property
    def input_ids(self) -> list[int]:
        """Token ids."""
        ...

    @property
    def labels(self) -> list[int]:
        """Token ids or -100."""
        ...


@dataclass(frozen=True)
class Loss:
    """total: nats over all `tokens` that have a label."""

    total: float
    tokens: int

    @property
    def per_token(self) -> float | None:
        """Nats per labelled token; None if there was none."""
        return self.total / self.tokens if self.tokens else None


def held_out_loss(
    model: PreTrainedModel,
    encoded: Sequence[Labelled],
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> Loss:
    """The loss over all labelled tokens, each counted once, so that it does not depend on how rows share batches.

    Natural logarithm; log-probabilities in float32, their sum in float64. The model's mode (train or eval) stays as it was.
    progress hears how many more rows are done.
    """
    total, tokens, was_training = 0.0, 0, model.training
    model.eval()
    try:
        for batch in _batches(encoded, batch_size, model.config.get_text_config().vocab_size):
            losses = _token_losses(model, batch)
            total, tokens = total + float(losses.double().sum()), tokens + losses.numel()
            progress(len(batch))
    finally:
        model.train(was_training)
    return Loss(total, tokens)


def _batches(encoded: Sequence[Labelled], batch_size: int, vocabulary: int) -> Iterator[list[Labelled]]:
    """Rows of like length together, as many as batch_size and the logits' memory allow, and at least one."""
    batch: list[Labelled] = []
    for row in sorted(encoded, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * len(row.input_ids) * vocabulary > MOST_LOGITS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.no_grad()
def _token_losses(model: PreTrainedModel, rows: Sequence[Labelled]) -> Tensor:
    """-log p of each labelled token, float32 (labelled tokens,). Rows are padded on the right and masked."""
    longest = max(len(row.input_ids) for row in rows)
    ids = _padded([row.input_ids for row in rows], longest, 0, model.device)
    labels = _padded([row.labels for row in rows], longest, IGNORED, model.device)[:, 1:]
    mask = _padded([[1] * len(row.input_ids) for row in rows], longest, 0, model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    wanted = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="none")


def _padded(rows: list[list[int]], length: int, filler: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [filler] * (length - len(row)) for row in rows], device=device)
