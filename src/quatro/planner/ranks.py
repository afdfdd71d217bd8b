"""How much is trained at each rank, and what a rank is good for."""

from dataclasses import dataclass, replace

from quatro.planner.adapters import RANKS, adapters, per_square
from quatro.planner.optimizers import OPTIMIZERS
from quatro.planner.settings import Settings
from quatro.planner.skeleton import Skeleton
from quatro.planner.weights import FLOAT32

GUIDANCE = {
    2: "a tone of voice; few examples",
    8: "one task, or attention alone",
    16: "the default, on all linear layers",
    32: "much data or a new domain",
}
"""After QLoRA (2305.14314, appendix A): with all layers adapted, the rank hardly matters to the result: adapt more layers before you raise it."""


@dataclass(frozen=True)
class Rank:
    """per_square: trained numbers of one matrix hidden x hidden; trainable: of the whole adapter; file and states in bytes."""

    r: int
    per_square: int
    trainable: int
    file: int
    states: int
    guidance: str


def ranks(skeleton: Skeleton, settings: Settings) -> list[Rank]:
    """For r = 2, 8, 16, 32, and the one that was asked for."""
    return [_rank(skeleton, replace(settings, r=r)) for r in sorted({*RANKS, settings.r})]


def _rank(skeleton: Skeleton, settings: Settings) -> Rank:
    factors = adapters(skeleton, settings.r, settings.targets)
    trainable = sum(one.parameters for one in factors)
    states = OPTIMIZERS[settings.optim].state_bytes((size, one.count) for one in factors for size in one.sizes)
    hidden = skeleton.stacks[0].hidden
    return Rank(
        settings.r, per_square(settings.r, hidden), trainable, FLOAT32 * trainable, states, GUIDANCE.get(settings.r, "")
    )
