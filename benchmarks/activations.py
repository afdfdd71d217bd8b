"""Checkpointed layers' inputs in memory, and within a budget with the rest in a file: seconds and peak memory of a training step.

    python benchmarks/activations.py [--length 2048] [--budget 32MiB]

A dense Llama (hidden 1024, 8 layers) in float32, one row, non-reentrant checkpoints; each contender in a process of its own. Gradients are
compared to the bit before anything is reported. Memory is resident above the model and its gradients.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import print_table, surroundings, write_result
from optimizers import _forget_peak, _median, _peak, _resident

from quatro.format.sizes import parse_size
from quatro.train.activations import ActivationPages
from quatro.train.checkpointing import checkpoint_layers

STEPS = 3
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""What is freed goes back to the system, so that resident memory is what a step needs."""


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(measured(options)))
        return
    found = surroundings("quatro", "torch", "transformers")
    results = {name: _in_a_process(name, options) for name in ("none", "checkpointed", "paged")}
    if len({result["gradients"] for result in results.values()}) != 1:
        raise SystemExit("gradients differ; nothing is reported")
    rows = [
        [name, f"{r['seconds']:.2f}", f"{r['peak_bytes'] / 1e6:,.0f}", f"{r['written_bytes'] / 1e6:,.0f}", f"{r['waited']:.2f}"]
        for name, r in results.items()
    ]
    print_table(f"a step of {options.length} tokens", ["activations", "s", "peak MB", "written MB", "waited s"], rows)
    write_result("activations", {"surroundings": found, "length": options.length, "budget": options.budget, "results": results})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--budget", default="32MiB")
    parser.add_argument("--worker", choices=["none", "checkpointed", "paged"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", name, "--length", str(options.length), "--budget", options.budget]
    return json.loads(
        subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **RETURNING}
        ).stdout.splitlines()[-1]
    )


def measured(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    shape = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "vocab_size": 1000,
    }
    model = LlamaModel(LlamaConfig(**shape, max_position_embeddings=options.length)).train()
    if options.worker != "none":
        checkpoint_layers(model, use_reentrant=False)
    pages = ActivationPages(parse_size(options.budget), Path(tempfile.gettempdir()), model)
    ids = torch.arange(options.length)[None] % 1000
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before, times = _resident(), []
    _forget_peak()
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad.zero_()
        start = time.perf_counter()
        if options.worker == "paged":
            with pages.hooks():
                loss = model(ids).last_hidden_state.square().mean()
        else:
            loss = model(ids).last_hidden_state.square().mean()
        loss.backward()
        times.append(time.perf_counter() - start)
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.grad.numpy().tobytes())
    return {
        "seconds": _median(times[1:]),
        "peak_bytes": _peak() - before,
        "written_bytes": pages.moved.bytes_written // STEPS,
        "waited": pages.moved.seconds_waited / STEPS,
        "gradients": digest.hexdigest(),
    }


if __name__ == "__main__":
    main()
