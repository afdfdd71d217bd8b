"""What a model is made of, as far as memory is concerned: shapes, how many of each, and what quatro does with them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod


class Role(StrEnum):
    """What a tensor is for, which decides how it is stored."""

    LINEAR = "linear"
    """A matrix (out, in), or the matrices of fused experts (experts, out, in): in 4 bits where `in` is even."""
    HEAD = "head"
    """An output matrix (out, in): dense, in the checkpoint's dtype."""
    WIDE = "wide"
    """A linear layer that its model keeps in float32: dense."""
    EMBEDDING = "embedding"
    """Rows that are looked up: the checkpoint's dtype."""
    BIAS = "bias"
    """The checkpoint's dtype."""
    NORM = "norm"
    """Norms, routers, convolutions and what else is small: float32, because hidden states are."""
    BUFFER = "buffer"
    """No parameter: it stands beside the weights and is counted in bytes."""


@dataclass(frozen=True)
class Tensor:
    """count tensors of one shape. name: as in the model, with * for a layer's number. itemsize: bytes of a buffer's
    element, 0 where it has the checkpoint's dtype."""

    name: str
    shape: tuple[int, ...]
    role: Role
    count: int = 1
    itemsize: int = 4

    @property
    def size(self) -> int:
        """Numbers in one of them."""
        return prod(self.shape)

    @property
    def parameters(self) -> int:
        """Numbers in all of them; a buffer's are none."""
        return 0 if self.role is Role.BUFFER else self.count * self.size

    @property
    def is_in_4_bits(self) -> bool:
        """Whether quatro quantizes it."""
        return self.role is Role.LINEAR and self.shape[-1] % 2 == 0

    @property
    def is_linear(self) -> bool:
        """Whether it is the weight of a linear layer other than the output, of one expert or of none."""
        return self.role in (Role.LINEAR, Role.WIDE)

    @property
    def layer(self) -> str:
        """The last word of its layer's name: q_proj."""
        return self.name.removesuffix(".weight").rpartition(".")[2]


def linear(
    name: str, outputs: int, inputs: int, count: int = 1, bias: bool = False, role: Role = Role.LINEAR
) -> Iterator[Tensor]:
    """A linear layer's weight and, where it has one, its bias."""
    yield Tensor(f"{name}.weight", (outputs, inputs), role, count)
    if bias:
        yield Tensor(f"{name}.bias", (outputs,), Role.BIAS, count)


def norm(name: str, size: int, count: int = 1, bias: bool = False) -> Iterator[Tensor]:
    """A norm's scale and, where it has one, its shift."""
    yield Tensor(f"{name}.weight", (size,), Role.NORM, count)
    if bias:
        yield Tensor(f"{name}.bias", (size,), Role.NORM, count)


def parameter_count(tensors: Iterable[Tensor]) -> int:
    """All weights; one in 4 bits counts as one."""
    return sum(tensor.parameters for tensor in tensors)
