from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quatro.integrations.checkpoint import ComputedTensor
from quatro.integrations.streaming import Stream

NAMES = [f"experts.{expert}.{part}" for expert in range(12) for part in ("down", "gate", "up")]


def counted(names: list[str], reads: list[str]) -> dict[str, ComputedTensor]:
    def compute(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            reads.append(name)
            return torch.full((2,), float(names.index(name)))

        return read

    return {name: ComputedTensor(name, "F32", (2,), compute(name)) for name in names}


def in_order_of_parts() -> list[str]:
    """As transformers takes tensors that it joins: one part of every expert, then the next."""
    return [name for part in ("gate", "up", "down") for name in NAMES if name.endswith(part)]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("order", [NAMES, in_order_of_parts(), NAMES[::-1]], ids=["natural", "joined", "reversed"])
def test_every_tensor_is_read_once_and_told_once_whatever_the_order(order: list[str], ahead: bool) -> None:
    """But for a guess: at most one tensor is read in vain where the natural order is left."""
    reads: list[str] = []
    told: list[tuple[int, int]] = []
    with Stream(counted(NAMES, reads), lambda read, all: told.append((read, all)), ahead) as stream:
        tensors = stream.state_dict()
        for name in order:
            assert torch.equal(tensors[name][...], torch.full((2,), float(NAMES.index(name)))), name
    assert len(reads) - len(order) <= (1 if ahead else 0)
    assert told == [(8 * (index + 1), 8 * len(order)) for index in range(len(order))]


def test_in_natural_order_the_next_tensor_is_on_its_way() -> None:
    reads: list[str] = []
    with Stream(counted(NAMES, reads), lambda read, all: None, True) as stream:
        stream.take(NAMES[0])
        coming = stream._waiting[NAMES[1]]
        assert torch.equal(coming.result(10), torch.ones(2))
    assert reads == NAMES[:2]


def test_ten_comes_after_two() -> None:
    reads: list[str] = []
    names = ["layers.10.w", "layers.2.w", "layers.1.w"]
    with Stream(counted(names, reads), lambda read, all: None, True) as stream:
        for name in ("layers.1.w", "layers.2.w", "layers.10.w"):
            stream.take(name)
    assert reads == ["layers.1.w", "layers.2.w", "layers.10.w"]
