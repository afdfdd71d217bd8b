"""Products with 4-bit weights beside bitsandbytes and dense torch: first that the results are right, then how long they take.

    python benchmarks/products.py [--rounds 7] [--threads N] [--avx2] [--figure docs/products.png]

y = x W^T (and the gradient to x) for 1 to 1024 rows of x in float32, W 4096 x 4096 and 11008 x 4096, nf4 with double quantization,
blocks of 64. Every call takes another weight, of which there are four times the last cache, so that weights come from memory as
they do in a model; and a contender's turn is 64 calls in a row for one row, fewer for more rows, as layers follow each other.
--avx2 keeps torch and quatro from wider instructions (bitsandbytes chooses its own).

bitsandbytes is there twice. "bitsandbytes layer" is its Linear4bit in evaluation without gradients, as its users generate: where the
processor has AVX512-BF16 it packs the weight anew and multiplies in bfloat16. "bitsandbytes dequantize" is what it does in training, and on
other processors always: a dense float32 weight, then torch's product.

Each contender's own weights are what its result is checked against, in float64. Limits are measured in the same run: how fast torch
reads memory, and the best rate of torch's float32 product.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import bitsandbytes.functional as rival
import bitsandbytes.nn.modules as modules
import matplotlib
import torch
from harness import Timing, interleaved, memory_bandwidth, print_table, surroundings, write_result
from matplotlib import pyplot
from torch import Tensor

import quatro
from quatro.kernels import native
from quatro.nn import Linear4bit

BLOCK = 64
SHAPES = ((4096, 4096), (11008, 4096))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
IN_THE_TABLE = (1, 8, 64, 256, 1024)
LAST_CACHE = 32 << 20
MOST = {
    "quatro": 2e-4,
    "quatro, exact": 2e-6,
    "bitsandbytes layer": 1e-2,
    "bitsandbytes dequantize": 2e-6,
    "dense float32": 2e-6,
    "torch int4": 1e-2,
}
"""Relative errors that a contender may have against float64 on its own weights; torch's int4 product and bitsandbytes' layer take bfloat16."""
Product = Callable[[Tensor], Tensor]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    bandwidth = memory_bandwidth()
    found = {}
    for outputs, inputs in SHAPES:
        name = f"{outputs} x {inputs}"
        forward, backward = contenders(outputs, inputs)
        found[name] = {
            "forward": measure(forward, inputs, options.rounds),
            "backward": measure(backward, outputs, options.rounds),
        }
        for direction, rows in found[name].items():
            report(f"{name}, {direction}", rows, outputs * inputs, bandwidth["read"])
    if options.figure:
        draw(found["4096 x 4096"]["forward"], options.figure)
    name = "products-avx2" if options.avx2 else "products"
    about = surroundings("quatro", "torch", "bitsandbytes", "numpy")
    write_result(name, {"instruction_set": native.instruction_set(), "block_size": BLOCK, **about, "bandwidth_gb_s": bandwidth,
                        "milliseconds": _numbers(found)})  # fmt: skip


def contenders(outputs: int, inputs: int) -> tuple[dict[str, Product], dict[str, Product]]:
    """Products and gradients to the input, by name; each was found to be right before it is returned."""
    packed = [quatro_layer(outputs, inputs) for _ in range(copies(outputs * inputs * 0.516))]
    dense = [torch.randn(outputs, inputs) / 64 for _ in range(copies(outputs * inputs * 4))]
    theirs = [rival.quantize_4bit(torch.randn(outputs, inputs) / 64, quant_type="nf4", blocksize=BLOCK, compress_statistics=True)
              for _ in range(copies(outputs * inputs * 0.516))]  # fmt: skip
    layers = [bitsandbytes_layer(outputs, inputs) for _ in range(copies(outputs * inputs * 0.516))]
    tiles = [int4_weight(outputs, inputs) for _ in range(copies(outputs * inputs * 0.516))]
    forward = {
        "quatro": cycled(packed, lambda layer, x: layer(x)),
        "quatro, exact": cycled([exact(layer) for layer in packed[:4]], lambda layer, x: layer(x)),
        "bitsandbytes layer": cycled([layer for layer, _ in layers], lambda layer, x: layer(x)),
        "bitsandbytes dequantize": cycled(theirs, lambda w, x: bitsandbytes_product(x, *w)),
        "dense float32": cycled(dense, lambda w, x: torch.nn.functional.linear(x, w)),
        "torch int4": cycled(tiles, lambda w, x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), w[0], BLOCK, w[1])),
    }
    backward = {
        "quatro": cycled(packed, gradient),
        "bitsandbytes dequantize": cycled(theirs, lambda w, g: g @ rival.dequantize_4bit(*w)),
        "dense float32": cycled(dense, lambda w, g: g @ w),
    }
    x, g = torch.randn(5, inputs), torch.randn(5, outputs)
    truth = {"quatro": packed[0].dequantize(), "quatro, exact": packed[0].dequantize(), "dense float32": dense[0],
             "bitsandbytes dequantize": rival.dequantize_4bit(*theirs[0]),
             "bitsandbytes layer": layers[0][1], "torch int4": tiles[0][2]}  # fmt: skip
    for name, product in forward.items():
        check(f"{name}, forward", product(x), x.double() @ truth[name].double().T, MOST[name])
    for name, product in backward.items():
        check(f"{name}, backward", product(g), g.double() @ truth[name].double(), MOST[name])
    return forward, backward


def quatro_layer(outputs: int, inputs: int) -> Linear4bit:
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    torch.nn.init.normal_(linear.weight, std=1 / 64)
    return Linear4bit.from_linear(linear)


def exact(layer: Linear4bit) -> Linear4bit:
    other = Linear4bit(layer.in_features, layer.out_features, bias=False, precision="exact", device="meta")
    other.set_quantized(layer.quantized)
    return other


@torch.enable_grad()
def gradient(layer: Linear4bit, g: Tensor) -> Tensor:
    """The backward op alone, as autograd calls it."""
    parts = (layer.weight, layer.absmax, layer.nested_absmax, layer.nested_offset, layer.zeros)
    return quatro.kernels.ops.linear_backward(g, *parts, "nf4", None, BLOCK, torch.float32, "high", "native")


@torch.no_grad()
def bitsandbytes_layer(outputs: int, inputs: int) -> tuple[torch.nn.Module, Tensor]:
    """Its layer after the first call, which packs the weight, and the weight it stands for."""
    layer = modules.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True
    )
    layer.weight = modules.Params4bit(torch.randn(outputs, inputs) / 64, False, quant_type="nf4", compress_statistics=True)
    layer = layer.to("cpu").eval()
    weight = rival.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    layer(torch.randn(1, inputs))
    return layer, weight


def bitsandbytes_product(x: Tensor, packed: Tensor, state: rival.QuantState) -> Tensor:
    """What bitsandbytes.matmul_4bit does on a CPU when it trains, less its autograd node."""
    return torch.nn.functional.linear(x, rival.dequantize_4bit(packed, state).to(x.dtype))


def int4_weight(outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """torch's packed codes, its scales and zeros, and the weight they stand for."""
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
    scales = (torch.rand(outputs, inputs // BLOCK) / 64 + 0.01).bfloat16()
    zeros = torch.zeros_like(scales)
    both = torch.stack([scales, zeros], dim=2).transpose(0, 1).contiguous()
    weight = (codes.view(outputs, -1, BLOCK) - 8).float() * scales[..., None].float()
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1), both, weight.view(outputs, inputs)


def copies(size: float) -> int:
    """How many weights of so many bytes are four times the last cache."""
    return max(2, -(-4 * LAST_CACHE // int(size)))


def cycled(weights: list, product: Callable[..., Tensor]) -> Product:
    turn: Iterator = itertools.cycle(weights)
    return torch.no_grad()(lambda x: product(next(turn), x))


def check(what: str, got: Tensor, expected: Tensor, most: float) -> None:
    error = float((got.double() - expected).norm() / expected.norm())
    if not error <= most:
        raise SystemExit(f"{what}: relative error {error:.1e}, more than {most:.0e}: nothing was measured")
    print(f"{what}: relative error {error:.1e}")


def measure(products: dict[str, Product], width: int, rounds: int) -> dict[int, dict[str, Timing]]:
    found = {}
    for count in ROWS:
        x = torch.randn(count, width)
        found[count] = interleaved(
            {name: partial(product, x) for name, product in products.items()}, rounds, calls=max(2, 64 // count)
        )
    return found


def report(title: str, found: dict[int, dict[str, Timing]], weights: int, read: float) -> None:
    rate = max(2 * rows * weights / timings["dense float32"].median / 1e6 for rows, timings in found.items())
    lines = []
    for rows in IN_THE_TABLE:
        ours = found[rows]["quatro"].median
        times = {name: f"{timing.median:.2f} ({timing.median / ours:.1f}x)" for name, timing in found[rows].items()}
        limit = (
            f"{weights * 0.516 / ours / 1e6 / read:.0%} of reading"
            if rows == 1
            else f"{2 * rows * weights / ours / 1e6 / rate:.1f}x the float32 rate"
        )
        lines.append([str(rows), f"{ours:.3f}", *(text for name, text in times.items() if name != "quatro"), limit])
    others = [name for name in found[1] if name != "quatro"]
    print_table(f"{title}: ms, and times quatro; memory reads {read:.1f} GB/s, float32 products {rate:.0f} GFLOP/s",
                ["rows", "quatro", *(name.replace(" ", "\n") for name in others), "quatro is at"], lines)  # fmt: skip


def draw(found: dict[int, dict[str, Timing]], path: Path) -> None:
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name in found[1]:
        axes.plot(ROWS, [found[rows][name].median for rows in ROWS], marker="o", markersize=3,
                  linewidth=2.5 if name == "quatro" else 1.3, label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="rows of activations", ylabel="milliseconds (median)",
             title=f"4096 x 4096, nf4 with double quantization, {torch.get_num_threads()} threads, {native.instruction_set()}")  # fmt: skip
    axes.set_xticks(ROWS, [str(rows) for rows in ROWS])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def _numbers(found: dict[str, dict[str, dict[int, dict[str, Timing]]]]) -> dict:
    return {
        shape: {
            direction: {rows: {name: round(t.median, 4) for name, t in timings.items()} for rows, timings in by_rows.items()}
            for direction, by_rows in directions.items()
        }
        for shape, directions in found.items()
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times that each contender runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--avx2", action="store_true", help="no wider instructions than AVX2, for torch and quatro")
    parser.add_argument("--figure", type=Path, help="draw time against rows to this file")
    options = parser.parse_args()
    capped = {
        "QUATRO_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    if options.avx2 and os.environ.get("QUATRO_ISA") != "avx2":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **capped})
    return options


if __name__ == "__main__":
    main()
