"""Loading a 1.1B Llama of bfloat16 shards into 4 bits: seconds and resident memory, beside transformers with bitsandbytes.

    python benchmarks/loading.py [--layers 22] [--hidden 2048] [--rounds 3] [--threads N] [--shard 500MB]

Every load has a process of its own; contenders take turns. Seconds are the load's alone, without imports. Memory is what is resident
above what the imports had left, files that are mapped included (VmRSS and VmHWM): at the end, and at its peak. First each result is
checked: its dequantized weights must be nf4's of the checkpoint (bitsandbytes rounds them to bfloat16).

Then quatro's own 4-bit checkpoint is loaded after its pages were dropped from the system's cache, beside reading the same bytes cold, and a
LoRA of rank 16 on all linear layers is merged into the base, onto dequantized and onto original weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import print_table, surroundings, write_result
from models import add_common_options, bitsandbytes_model, quatro_model, save_random_llama, through_nf4
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from workers import SILENT, ResidentMemory

import quatro
from quatro.nn import Linear4bit

CONTENDERS: dict[str, Callable[[str], nn.Module]] = {
    "quatro.load": lambda directory: quatro.load(directory)[0],
    "from_pretrained, QuatroConfig": quatro_model,
    "from_pretrained, bitsandbytes": partial(bitsandbytes_model, dtype=torch.bfloat16),
}
RIVAL = "from_pretrained, bitsandbytes"
ONTO = ("dequantized", "original")
CHECKED = "model.layers.0.mlp.up_proj"
TOLERANCE = 2**-8
"""Relative, of a dequantized weight: bitsandbytes keeps bfloat16."""
READ_AT_ONCE = 16 << 20


def main() -> None:
    options = _options()
    if options.worker:
        return work(options)
    found = surroundings("quatro", "torch", "transformers", "bitsandbytes")
    with tempfile.TemporaryDirectory() as directory:
        source, saved = Path(directory, "source"), Path(directory, "saved")
        save_random_llama(source, options.layers, options.hidden)
        reshard(source, options.shard)
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, "<unk>"))).save_pretrained(source)
        turns = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name, results in turns.items():
                results.append(ask(name, source, options))
        largest = largest_tensor(source)
        ask("save", source, options, saved)
        cold = [(cold_read(saved), ask("quatro.load", drop(saved), options)["seconds"]) for _ in range(options.rounds)]
        ask("adapter", source, options, Path(directory, "adapter"))
        merges = {onto: ask(f"merge onto {onto}", source, options, Path(directory, "adapter")) for onto in ONTO}
    report(turns, largest, cold, merges)
    write_result("loading", {"layers": options.layers, "hidden": options.hidden, "shard": options.shard, **found, "largest_mb": largest,
                             "by": turns, "cold": [{"read": read, "load": load} for read, load in cold], "merge": merges})  # fmt: skip


def work(options: argparse.Namespace) -> None:
    """One load in a fresh process: its numbers on one line."""
    torch.set_num_threads(options.threads)
    quatro.nn.Linear4bit, quatro.load, quatro.merge  # noqa: B018  (imported now)
    if options.worker == RIVAL:
        import bitsandbytes  # noqa: F401  (so that it does not count as memory of the model)
    if options.worker == "save":
        model, tokenizer = quatro.load(options.directory)
        quatro.save(model, options.target, tokenizer)
        return print(json.dumps({}))
    if options.worker == "adapter":
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(quatro_model(options.directory), config).save_pretrained(options.target)
        return print(json.dumps({}))
    if options.worker.startswith("merge"):
        return print(json.dumps(merging(options.worker.rpartition(" ")[2], options.directory, options.target)))

    memory = ResidentMemory()
    memory.restart()
    start = time.perf_counter()
    model = CONTENDERS[options.worker](options.directory)
    seconds = time.perf_counter() - start
    numbers = {"seconds": seconds, "peak_mb": memory.peak(), "resident_mb": memory.now(), "result_mb": nbytes(model) / 1e6}
    if not options.unchecked:
        check(options.worker, model, Path(options.directory))
    print(json.dumps(numbers))


def merging(onto: str, directory: str, adapter: str) -> dict[str, float]:
    """Seconds and peak memory of one merge."""
    memory = ResidentMemory()
    memory.restart()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as target:
        quatro.merge(directory, adapter, target, onto=onto)
    return {"seconds": time.perf_counter() - start, "peak_mb": memory.peak()}


def check(name: str, model: nn.Module, directory: Path) -> None:
    """Raise SystemExit unless a weight is what nf4 keeps of the checkpoint's."""
    layer = model.get_submodule(CHECKED)
    if isinstance(layer, Linear4bit):
        found = layer.dequantize()
    else:
        from bitsandbytes.functional import dequantize_4bit

        found = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    shard = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"][f"{CHECKED}.weight"]
    with safe_open(directory / shard, "pt") as file:
        expected = through_nf4(file.get_tensor(f"{CHECKED}.weight").float())
    error = float((found - expected).norm() / expected.norm())
    if not error <= TOLERANCE:
        raise SystemExit(f"{name}: a weight differs by {error:.1e} from nf4's: nothing was measured")


def nbytes(model: nn.Module) -> int:
    """Of parameters, buffers and the scales that bitsandbytes keeps beside them."""
    states = [state for parameter in model.parameters() if (state := getattr(parameter, "quant_state", None)) is not None]
    scales = sum(state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0) for state in states)
    return scales + sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def ask(name: str, directory: Path, options: argparse.Namespace, target: Path | None = None) -> dict[str, float]:
    """One load by a fresh process."""
    command = [sys.executable, __file__, "--worker", name, "--directory", str(directory), "--threads", str(options.threads)]
    command += ["--target", str(target)] if target else []
    command += ["--unchecked"] if not (directory / "model.safetensors.index.json").is_file() else []
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SILENT})
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def reshard(directory: Path, size: str) -> None:
    """The same checkpoint in shards of at most this size."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    (directory / "model.safetensors").unlink(missing_ok=True)
    model.save_pretrained(directory, max_shard_size=size)


def largest_tensor(directory: Path) -> float:
    """MB, of the checkpoint."""
    sizes = []
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118  (a safe_open is no mapping)
            sizes += [2 * torch.Size(part.get_shape()).numel() for part in slices]
    return max(sizes) / 1e6


def drop(directory: Path) -> Path:
    """Written out and forgotten by the system's cache."""
    for file in directory.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return directory


def cold_read(directory: Path) -> float:
    """Seconds to read the weights from the disk."""
    drop(directory)
    start = time.perf_counter()
    for path in directory.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.read(READ_AT_ONCE):
                pass
    return time.perf_counter() - start


def report(
    turns: dict[str, list[dict[str, float]]],
    largest: float,
    cold: list[tuple[float, float]],
    merges: dict[str, dict[str, float]],
) -> None:
    middle = {name: {key: statistics.median(turn[key] for turn in found) for key in found[0]} for name, found in turns.items()}
    rival = middle[RIVAL]["seconds"]
    rows = []
    for name, found in middle.items():
        bound = found["result_mb"] + 2 * largest + 150
        rows.append([name, f"{found['seconds']:.2f}", f"{rival / found['seconds']:.1f}x", f"{found['result_mb']:.0f}",
                     f"{found['resident_mb']:.0f}", f"{found['peak_mb']:.0f}", f"{bound:.0f}"])  # fmt: skip
    print_table(
        "loading into 4 bits", ["by", "seconds", "faster than rival", "result MB", "resident MB", "peak MB", "bound MB"], rows
    )
    read, load = (statistics.median(values) for values in zip(*cold, strict=True))
    print(f"a saved 4-bit checkpoint, cold: {load:.2f} s; reading its bytes: {read:.2f} s; allowed {1.2 * read + 0.5:.2f} s")
    for onto, found in merges.items():
        print(
            f"merging onto {onto} weights: {found['seconds']:.1f} s, peak {found['peak_mb']:.0f} MB of {4 * largest + 150:.0f} allowed"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, layers=22)
    parser.set_defaults(rounds=3)
    parser.add_argument("--shard", default="500MB", help="the largest shard")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--unchecked", action="store_true", help=argparse.SUPPRESS)
    found: Any = parser.parse_args()
    return found


if __name__ == "__main__":
    main()
