"""Quantize and dequantize a matrix beside bitsandbytes: first that the bits are equal, then how long it takes.

    python benchmarks/quantize.py [--size 4096] [--rounds 15] [--threads N]

Two ways to dequantize are measured. "fresh": each call returns a new tensor, as users of both libraries call it; most of that
is the system handing out memory. "reused": into the shared scratch buffer, as quatro's layers do in forward; bitsandbytes'
own layers allocate afresh each time, so its fresh time stands beside it.
"""

import argparse
import os
from collections.abc import Callable

import bitsandbytes.functional as rival
import torch
from harness import Timing, interleaved, memory_bandwidth, print_table, surroundings, write_result
from torch import Tensor

import quatro
from quatro.format.codebooks import code_table
from quatro.kernels import library, native, reference
from quatro.kernels.scratch import scratch

BLOCK = 64
ISAS = library.ISAS[::-1]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    w = torch.randn(options.size, options.size)
    for quant_type in ("nf4", "fp4"):
        check_bits(w, quant_type)
    print("bits: codes, scales and weights equal the reference's and bitsandbytes', nf4 and fp4, float32 and bfloat16")
    tasks = {
        "quantize float32": quantizing(w),
        "quantize bfloat16": quantizing(w.bfloat16()),
        "quantize float32, double": quantizing(w, double_quant=True),
        "dequantize to float32": dequantizing(w, torch.float32),
        "dequantize to bfloat16": dequantizing(w, torch.bfloat16),
        "dequantize to float32, double": dequantizing(w, torch.float32, double_quant=True),
    }
    bandwidth = memory_bandwidth()
    timings = {task: interleaved(contenders, options.rounds) for task, contenders in tasks.items()}
    report(timings, bandwidth, options.size)
    found = surroundings("quatro", "torch", "bitsandbytes", "numpy")
    write_result("quantize", {"size": options.size, "block_size": BLOCK, "instruction_set": native.instruction_set(), **found,
                              "bandwidth_gb_s": bandwidth, "milliseconds": _numbers(timings)})  # fmt: skip


def check_bits(w: Tensor, quant_type: str) -> None:
    """Raise unless quatro, its reference and bitsandbytes agree on every code, scale and weight."""
    table, flat, count = code_table(quant_type), w.flatten(), w.numel()
    codes, scales, _ = reference.quantize(flat, table, BLOCK)
    packed, state = rival.quantize_4bit(w, quant_type=quant_type, blocksize=BLOCK)
    require("bitsandbytes' codes", packed.flatten(), codes)
    require("bitsandbytes' scales", state.absmax, scales)
    for isa in ISAS:
        with instruction_set(isa):
            ours = native.quantize(flat, table, BLOCK)
            require(f"{isa} codes", ours[0], codes)
            require(f"{isa} scales", ours[1], scales)
            for dtype in (torch.float32, torch.bfloat16):
                expected = reference.dequantize(codes, scales, None, table, count, BLOCK, torch.empty(count, dtype=dtype))
                got = native.dequantize(*ours, table, count, BLOCK, torch.full((count,), torch.nan, dtype=dtype))
                require(f"{isa} weights in {dtype}", got, expected)
                state.dtype = dtype
                require(f"bitsandbytes' weights in {dtype}", rival.dequantize_4bit(packed, state).flatten(), expected)


def require(what: str, got: Tensor, expected: Tensor) -> None:
    if not torch.equal(got, expected):
        raise SystemExit(f"{what} differ from the reference in {int((got != expected).sum())} places: nothing was measured")


class instruction_set:
    """Within the block the native kernels use at most this instruction set."""

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def __enter__(self) -> None:
        self.before = os.environ.get("QUATRO_ISA")
        os.environ["QUATRO_ISA"] = self.isa

    def __exit__(self, *_: object) -> None:
        os.environ.pop("QUATRO_ISA")
        if self.before is not None:
            os.environ["QUATRO_ISA"] = self.before


def under(isa: str, run: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> object:
        with instruction_set(isa):
            return run()

    return wrapped


def quantizing(w: Tensor, double_quant: bool = False) -> dict[str, Callable[[], object]]:
    ours = {
        f"quatro {isa}": under(isa, lambda: quatro.quantize(w, block_size=BLOCK, double_quant=double_quant)) for isa in ISAS
    }
    return {
        "bitsandbytes": lambda: rival.quantize_4bit(w, quant_type="nf4", blocksize=BLOCK, compress_statistics=double_quant)
    } | ours


def dequantizing(w: Tensor, dtype: torch.dtype, double_quant: bool = False) -> dict[str, Callable[[], object]]:
    packed, state = rival.quantize_4bit(w.to(dtype), quant_type="nf4", blocksize=BLOCK, compress_statistics=double_quant)
    tensor = quatro.quantize(w.to(dtype), block_size=BLOCK, double_quant=double_quant)
    buffer, table = torch.empty(w.numel(), dtype=dtype), code_table("nf4")

    def into_scratch() -> Tensor:
        out = scratch((w.numel(),), dtype, w.device)
        return native.dequantize(tensor.codes.flatten(), tensor.scales, None, table, w.numel(), BLOCK, out)

    contenders: dict[str, Callable[[], object]] = {"bitsandbytes": lambda: rival.dequantize_4bit(packed, state)}
    contenders["memory alone, fresh"] = lambda: torch.empty_like(buffer).fill_(0)
    contenders["memory alone, reused"] = lambda: buffer.fill_(0)
    for isa in ISAS:
        contenders[f"quatro {isa}, fresh"] = under(isa, lambda: tensor.dequantize())
        contenders[f"quatro {isa}, reused"] = under(isa, into_scratch)
    return contenders


def report(timings: dict[str, dict[str, Timing]], bandwidth: dict[str, float], size: int) -> None:
    print_table(
        f"{size} x {size}, nf4, blocks of {BLOCK}, {torch.get_num_threads()} threads; memory reads {bandwidth['read']:.1f}, "
        f"writes {bandwidth['write']:.1f} GB/s",
        ["task", "by", "median ms", "best ms", "G weights/s", "times bitsandbytes"],
        [
            [task, name, f"{t.median:.2f}", f"{t.best:.2f}", f"{size**2 / t.median / 1e6:.2f}", ratio(t, rows["bitsandbytes"])]
            for task, rows in timings.items()
            for name, t in rows.items()
        ],
    )


def ratio(timing: Timing, rival: Timing) -> str:
    return f"{rival.median / timing.median:.1f}"


def _numbers(timings: dict[str, dict[str, Timing]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        task: {
            name: {
                "median": round(timing.median, 3),
                "best": round(timing.best, 3),
                "times_bitsandbytes": round(rows["bitsandbytes"].median / timing.median, 2),
            }
            for name, timing in rows.items()
        }
        for task, rows in timings.items()
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the matrix")
    parser.add_argument("--rounds", type=int, default=15, help="times that each contender runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
