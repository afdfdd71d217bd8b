"""Steps that move a model's latent 4-bit weights towards what a teacher answers."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from quatro.quantizers.latent import LatentLinear

LATENT_RATE = 6e-3
"""A step's length for dense numbers, as a share of their layer's root mean square."""
STRETCH_RATE = 3e-3
"""A step's length for the logarithm of a scale: a 256th is about what 8-bit scales resolve."""
WARM_UP = 10
Logits = Callable[[Tensor], Tensor]


def distill(
    student: Logits,
    teacher: Logits,
    layers: Iterable[LatentLinear],
    batches: Sequence[Tensor],
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> None:
    """Take a step of Adam a batch on the mean over tokens of KL(teacher || student), its length falling as a cosine to 0.

    student, teacher: token ids int64 (rows, length) -> logits (rows, length, vocabulary). layers: what of the student moves.
    progress: told the steps so far and all there are.
    """
    groups = [group for layer in layers for group in _groups(layer)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, len(batches)))
    for step, ids in enumerate(batches, 1):
        torch.autograd.backward(_divergence(student(ids), _wanted(teacher, ids)))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress(step, len(batches))


def _groups(layer: LatentLinear) -> list[dict[str, object]]:
    size = float(layer.latent.detach().square().mean().sqrt())
    return [{"params": [layer.latent], "lr": LATENT_RATE * size}, {"params": [layer.stretch], "lr": STRETCH_RATE}]


def _share(step: int, steps: int) -> float:
    """Of the full step length: a short rise, then half a cosine."""
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def _wanted(teacher: Logits, ids: Tensor) -> Tensor:
    return teacher(ids).float().log_softmax(-1)


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    found = logits.float().log_softmax(-1).flatten(0, -2)
    return nn.functional.kl_div(found, wanted.flatten(0, -2), log_target=True, reduction="batchmean")
