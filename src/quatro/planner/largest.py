"""Given a budget: does a run fit, what makes it fit, and how long, wide or high-ranked could it be?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from quatro.format.errors import InputError
from quatro.planner.optimizers import OPTIMIZERS
from quatro.planner.plan import plan_skeleton
from quatro.planner.settings import Settings
from quatro.planner.skeleton import Skeleton

MOST_TOKENS, MOST_SEQUENCES, MOST_RANK = 1 << 20, 1 << 14, 1 << 10
"""Where the search ends: tokens where a model has no longest length, sequences of a batch, rank."""


@dataclass(frozen=True)
class Largest:
    """One way to run, and the largest value of each number alone that fits with the others as asked; 0 where not even 1 does.

    changes: what is done differently from what was asked; total: bytes as asked with these changes.
    """

    settings: Settings
    changes: tuple[str, ...]
    total: int
    fits: bool
    length: int
    batch: int
    r: int


def largest(skeleton: Skeleton, settings: Settings, budget: int) -> list[Largest]:
    """The run as asked; with its states paged; with products kept and the rest computed again; with all computed again.

    Raises InputError for a budget below 1.
    """
    if budget < 1:
        raise InputError(f"a budget must be one byte or more, got {budget}")
    return [_largest(skeleton, changed, changes, budget) for changed, changes in _ways(settings)]


def _ways(settings: Settings) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    yield settings, ()
    changes: tuple[str, ...] = ()
    paged = f"paged_{'lion' if 'lion' in settings.optim else 'adamw'}_{settings.optimizer.bits}bit"
    if not settings.optimizer.paged and settings.optimizer.moments and paged in OPTIMIZERS:
        settings, changes = replace(settings, optim=paged), (f"page the optimizer's states ({paged})",)
        yield settings, changes
    if settings.checkpointing == "none" and settings.method == "qlora":
        yield replace(settings, checkpointing="products"), (*changes, "checkpoint, keeping products")
    if settings.checkpointing != "all":
        yield replace(settings, checkpointing="all"), (*changes, "checkpoint everything")


def _largest(skeleton: Skeleton, settings: Settings, changes: tuple[str, ...], budget: int) -> Largest:
    def total(**changed: int) -> int:
        return plan_skeleton(skeleton, replace(settings, **changed)).total  # type: ignore[arg-type]

    asked = total()
    longest = skeleton.longest or MOST_TOKENS
    return Largest(
        settings,
        changes,
        asked,
        asked <= budget,
        length=_last_that(lambda value: total(length=value) <= budget, longest),
        batch=_last_that(lambda value: total(batch=value) <= budget, MOST_SEQUENCES),
        r=0 if settings.method == "full" else _last_that(lambda value: total(r=value) <= budget, MOST_RANK),
    )


def _last_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1..most that fits, where all smaller ones do too; 0 if none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
