"""What is kept of every parameter, under which names, and whether saved states fit."""

from typing import Any

import torch
from torch import Tensor

from quatro.format.errors import InputError
from quatro.kernels.updates import STATE_BLOCK, STATE_COUNT
from quatro.optim.layout import Part

STATES = ("exp_avg", "exp_avg_sq")
"""torch's names for the moments; those of 8 bits have an absmax of every 256 beside them."""
ZERO_CODES = (127, 0)


def parts_of(rule: str, bits: int) -> tuple[Part, ...]:
    """The moments of a rule and, in 8 bits, their absmax."""
    names = STATES[: STATE_COUNT[rule]]
    if bits == 32:
        return tuple(Part(name, torch.float32) for name in names)
    codes = [Part(name, torch.uint8, fresh=zero) for name, zero in zip(names, ZERO_CODES, strict=False)]
    return (*codes, *(Part(f"{name}_absmax", torch.float32, STATE_BLOCK) for name in names))


def of_parameter(whole: Tensor, part: Part, start: int, size: int) -> Tensor:
    """A parameter's numbers among those of all."""
    return whole[start // part.every :][: part.count(size)]


def check_state(position: int, p: Tensor, state: dict[str, Any], parts: tuple[Part, ...]) -> None:
    """Raise InputError for a saved state of another shape or kind."""
    for part in parts:
        found = state.get(part.name)
        if not isinstance(found, Tensor) or found.numel() != part.count(p.numel()) or found.dtype is not part.dtype:
            has = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else "nothing"
            raise InputError(
                f"the saved state of parameter {position} ({tuple(p.shape)}) has {has} as {part.name}, this optimizer needs "
                f"{part.count(p.numel()):,} of {part.dtype}; it is of another model, or was saved with other state_bits or another optimizer"
            )
