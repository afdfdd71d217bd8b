"""Bytes of an optimizer's states: moments in 32 or 8 bits, resident or paged.

8-bit states are in blocks of 256 with a float32 absmax each. bitsandbytes' leave tensors of fewer than 4096 numbers in 32 bits; paged ones
are quatro.optim's, where every tensor is in 8 bits and begins at a block of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quatro.format.errors import InputError, did_you_mean

BLOCK, SMALLEST = 256, 4096
"""Numbers that share an absmax, and the smallest tensor whose states are in 8 bits."""


@dataclass(frozen=True)
class Optimizer:
    """moments: states of each parameter. bits: 32 or 8. paged: whether they live in pages beyond a budget."""

    moments: int
    bits: int = 32
    paged: bool = False

    def state_bytes(self, tensors: Iterable[tuple[int, int]]) -> int:
        """tensors: (numbers in one, how many of them)."""
        return sum(count * self._of_tensor(size) for size, count in tensors)

    def _of_tensor(self, size: int) -> int:
        if self.paged:
            size = -(-size // BLOCK) * BLOCK
        if self.bits == 32 or (size < SMALLEST and not self.paged):
            return 4 * size * self.moments
        return self.moments * (size + 4 * -(-size // BLOCK))

    @property
    def words(self) -> str:
        """The formula."""
        if not self.moments:
            return "no states"
        if self.bits == 32:
            return f"{4 * self.moments} bytes a trained parameter"
        small = "" if self.paged else f"; below {SMALLEST} numbers a tensor is in 32 bits"
        return f"{self.moments} bytes a trained parameter, a float32 scale for {BLOCK}{small}"


OPTIMIZERS = {
    "adamw_torch": Optimizer(2),
    "adamw_torch_fused": Optimizer(2),
    "adamw_8bit": Optimizer(2, 8),
    "adamw_bnb_8bit": Optimizer(2, 8),
    "paged_adamw": Optimizer(2, paged=True),
    "paged_adamw_32bit": Optimizer(2, paged=True),
    "paged_adamw_8bit": Optimizer(2, 8, True),
    "lion_32bit": Optimizer(1),
    "lion_8bit": Optimizer(1, 8),
    "paged_lion_32bit": Optimizer(1, paged=True),
    "paged_lion_8bit": Optimizer(1, 8, True),
    "rmsprop": Optimizer(1),
    "adagrad": Optimizer(1),
    "sgd": Optimizer(0),
}
"""By the names of transformers' `optim`."""


def optimizer_named(name: str) -> Optimizer:
    """Raises InputError for a name that is not among OPTIMIZERS."""
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optim {name!r}; {did_you_mean(str(name), OPTIMIZERS)}")
    return OPTIMIZERS[name]
