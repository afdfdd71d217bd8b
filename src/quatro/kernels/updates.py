"""What an optimizer's step is made of: one parameter's numbers, its states, and the scalars of its group at this step."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

STATE_BLOCK = 256
"""8-bit states that share a scale."""
RULES = ("adamw", "lion")
STATE_COUNT = {"adamw": 2, "lion": 1}


@dataclass(frozen=True)
class Scalars:
    """keep: 1 - lr * weight_decay. unbias, epsilon: AdamW's 1 / sqrt(1 - beta2^t) and eps. rate: lr, for AdamW over 1 - beta1^t."""

    keep: float
    beta1: float
    beta2: float
    unbias: float
    epsilon: float
    rate: float


class Update(NamedTuple):
    """parameter, gradient: float32 (n,), contiguous. states: float32 (n,) each, or uint8 (n,) each with absmax float32 (n / 256,) each.

    The first moment has the signed dynamic map, AdamW's second the unsigned one.
    """

    parameter: Tensor
    gradient: Tensor
    states: tuple[Tensor, ...]
    absmax: tuple[Tensor, ...]
    scalars: Scalars


def adamw_scalars(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, step: int) -> Scalars:
    """Of AdamW's step number `step`, counted from 1."""
    unbias = 1 / math.sqrt(1 - betas[1] ** step)
    return Scalars(1 - lr * weight_decay, *betas, unbias, eps, lr / (1 - betas[0] ** step))


def lion_scalars(lr: float, betas: tuple[float, float], weight_decay: float) -> Scalars:
    """Of any step of Lion."""
    return Scalars(1 - lr * weight_decay, *betas, 1.0, 0.0, lr)
