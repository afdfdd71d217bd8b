"""The low-rank factors that are trained: A (r, in) and B (out, r) beside each linear layer that is adapted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quatro.format.errors import InputError, did_you_mean
from quatro.planner.skeleton import Skeleton
from quatro.planner.tensors import Tensor

ALL_LINEAR = "all-linear"
EXPERTS_TOO = ("mixtral", "qwen3_moe", "olmoe")
"""Models whose fused experts and routers PEFT adapts under all-linear (0.21): with twice the rank where two matrices are one."""
RANKS = (2, 8, 16, 32)
"""Of the table in the QLoRA course: each doubling doubles what is trained."""


@dataclass(frozen=True)
class Factors:
    """count pairs of A (stacked * r, in) and B (out, stacked * r) on layers of one name. stacked: experts, else 1."""

    name: str
    outputs: int
    inputs: int
    r: int
    count: int
    stacked: int = 1

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in one A and in one B."""
        return self.stacked * self.r * self.inputs, self.stacked * self.r * self.outputs

    @property
    def parameters(self) -> int:
        """Of all of them."""
        return self.count * sum(self.sizes)


def adapters(skeleton: Skeleton, r: int, targets: str | Sequence[str] = ALL_LINEAR) -> tuple[Factors, ...]:
    """The factors of rank r on "all-linear", or on layers by name: ["q_proj", "v_proj"].

    Raises InputError for a rank below 1, or a name that no linear layer of the model has.
    """
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise InputError(f"r must be a whole number of 1 or more, got {r!r}")
    return tuple(_all_linear(skeleton, r) if targets == ALL_LINEAR else _named(skeleton, r, targets))


def per_square(r: int, hidden: int) -> int:
    """Trained weights of one square matrix: 2 r hidden."""
    return 2 * r * hidden


def _all_linear(skeleton: Skeleton, r: int) -> Iterator[Factors]:
    experts_too = skeleton.kind in EXPERTS_TOO
    for tensor in skeleton.linears:
        if len(tensor.shape) == 2:
            yield _factors(tensor, r)
        elif experts_too:
            yield _factors(tensor, 2 * r if tensor.layer == "gate_up_proj" else r)
    if experts_too:
        yield from (_factors(tensor, r) for tensor in skeleton.tensors if tensor.layer == "gate")


def _named(skeleton: Skeleton, r: int, targets: str | Sequence[str]) -> Iterator[Factors]:
    wanted = [targets] if isinstance(targets, str) else list(targets)
    flat = [tensor for tensor in skeleton.linears if len(tensor.shape) == 2]
    for name in wanted:
        if not any(_is_called(tensor, name) for tensor in flat):
            raise InputError(
                f"this {skeleton.kind} model has no linear layer {name!r} to adapt; {did_you_mean(name, {t.layer for t in flat})}"
            )
    yield from (_factors(tensor, r) for tensor in flat if any(_is_called(tensor, name) for name in wanted))


def _is_called(tensor: Tensor, name: str) -> bool:
    """As PEFT matches: the end of a module's name, at a dot."""
    return f".{tensor.name.removesuffix('.weight')}".endswith(f".{name}")


def _factors(tensor: Tensor, r: int) -> Factors:
    outputs, inputs = tensor.shape[-2:]
    return Factors(tensor.layer, outputs, inputs, r, tensor.count, tensor.shape[0] if len(tensor.shape) == 3 else 1)
