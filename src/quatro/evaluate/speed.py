"""How fast are products with 4-bit weights on this machine, beside dense torch and, where it is installed, bitsandbytes?"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from quatro.format.errors import MachineError
from quatro.nn import Linear4bit

Product = Callable[[Tensor], Tensor]
BLOCK = 64
BITS_PER_WEIGHT = 4.127
CACHE = 128 << 20
"""Each call takes another weight, of which there are so many bytes: no cache holds them until their turn comes again."""
MOST = {"quatro": 5e-4, "dense float32": 1e-5, "bitsandbytes": 1e-2}
"""Relative error against float64 that a product may have before it is timed; quatro's is precision="high",
bitsandbytes' layer may compute in bfloat16."""


@dataclass(frozen=True)
class Speed:
    """Medians of one product for `rows` rows of activations. seconds: by contender."""

    rows: int
    weights: int
    seconds: dict[str, float]

    @property
    def gflops(self) -> float:
        """Billions of float operations a second that quatro's product stands for."""
        return 2 * self.rows * self.weights / self.seconds["quatro"] / 1e9

    @property
    def read_gb(self) -> float:
        """GB/s at which quatro reads its weight."""
        return self.weights * BITS_PER_WEIGHT / 8 / self.seconds["quatro"] / 1e9

    def times(self, rival: str) -> float:
        """How many times faster than the rival."""
        return self.seconds[rival] / self.seconds["quatro"]


@torch.no_grad()
def measure_products(
    size: int, rows: tuple[int, ...], rounds: int, progress: Callable[[str], None] = lambda step: None
) -> list[Speed]:
    """Products of a size x size weight, nf4 with double quantization, with `rows` rows of float32; contenders take turns.

    Each contender's first result is compared with float64 on its own weight: MachineError if it is wrong.
    """
    progress("making weights")
    contenders = _contenders(size)
    found = []
    for count in rows:
        progress(f"{count} row{'s' * (count > 1)}")
        x = torch.randn(count, size)
        found.append(Speed(count, size * size, {name: _median(times) for name, times in _race(contenders, x, rounds).items()}))
    return found


def read_bandwidth(rounds: int = 5) -> float:
    """GB/s at which torch reads 256 MiB with all threads."""
    buffer = torch.ones(2**26)
    times = _race({"read": lambda _: buffer.sum()}, buffer, rounds)["read"]
    return buffer.nbytes / _median(times) / 1e9


def _contenders(size: int) -> dict[str, Product]:
    layers = [_layer(size) for _ in range(_copies(size * size * BITS_PER_WEIGHT / 8))]
    dense = [torch.randn(size, size) for _ in range(_copies(size * size * 4))]
    found = {
        "quatro": _cycled(layers, lambda layer, x: layer(x)),
        "dense float32": _cycled(dense, lambda w, x: torch.nn.functional.linear(x, w)),
    }
    truth = {"quatro": layers[0].dequantize(), "dense float32": dense[0]}
    if find_spec("bitsandbytes"):
        found["bitsandbytes"], truth["bitsandbytes"] = _bitsandbytes(size)
    x = torch.randn(3, size)
    for name, product in found.items():
        expected = x.double() @ truth[name].double().T
        error = float((product(x).double() - expected).norm() / expected.norm())
        if not error <= MOST[name]:
            raise MachineError(f"the product of {name} errs by {error:.1e}, more than {MOST[name]:.0e}: nothing was measured")
    return found


def _bitsandbytes(size: int) -> tuple[Product, Tensor]:
    """Its layer as it generates: in evaluation, each called once before, because the first call may pack the weight anew."""
    import bitsandbytes.functional as rival
    from bitsandbytes.nn import Linear4bit as Rival
    from bitsandbytes.nn import Params4bit

    def layer() -> tuple[Any, Tensor]:
        made = Rival(size, size, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True)
        made.weight = Params4bit(torch.randn(size, size), False, quant_type="nf4", compress_statistics=True)
        made = made.to("cpu").eval()
        weight = rival.dequantize_4bit(made.weight.data, made.weight.quant_state).float()
        made(torch.randn(1, size))
        return made, weight

    layers = [layer() for _ in range(_copies(size * size * BITS_PER_WEIGHT / 8))]
    return _cycled([made for made, _ in layers], lambda made, x: made(x)), layers[0][1]


def _layer(size: int) -> Linear4bit:
    return Linear4bit.from_linear(torch.nn.Linear(size, size, bias=False))


def _copies(size: float) -> int:
    return max(2, -(-CACHE // int(size)))


def _cycled(weights: list[Any], product: Callable[[Any, Tensor], Tensor]) -> Product:
    turn: Iterator[Any] = itertools.cycle(weights)
    return lambda x: product(next(turn), x)


def _race(contenders: dict[str, Callable[[Tensor], object]], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, once a round in turn, after one warm-up: a noisy neighbor then slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(x)
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def _median(times: list[float]) -> float:
    return statistics.median(times)
