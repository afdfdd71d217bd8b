"""Greedy generation, batch 1, by a 1.1B Llama of random weights: bitsandbytes, dense torch, llama.cpp's Q4_0, and quatro.

    python benchmarks/generate.py [--layers 22] [--hidden 2048] [--tokens 64] [--prompt 16] [--rounds 5] [--llama-python PATH]

All but llama.cpp run through transformers' `model.generate` as it comes; a streamer notes the time of every token. Each contender has a
process of its own, and they take turns; one so slow that a turn takes more than TURN seconds generates fewer tokens. A token's
time is the median over the tokens after the first; the first token's holds the prompt. The share of the memory bandwidth counts
every weight that a token needs, in the form it is stored in (embeddings apart, of which a row is read), against torch's
reading speed, measured in the same rounds.

First every contender's logits, step by step as it generates, are compared with those that dense float32 torch computes for the
same tokens in one pass from the weights as the contender has rounded them (nf4 with double quantization; Q4_0); each token must be the
reference's choice too, unless the two logits differ by less than the error. bitsandbytes keeps bfloat16 scales on processors
with bfloat16 units, and llama.cpp rounds activations to 8 bits; TOLERANCE allows for it. Nothing is measured otherwise.

llama.cpp takes part where an interpreter (--llama-python, default this one) has llama-cpp-python and gguf. Its head is once BF16 as
everybody else's, once Q6_K as its users have it. All contenders together hold 12 GB, and 17 GB during the comparison.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import memory_bandwidth, print_table, surroundings, write_result
from models import (
    add_common_options,
    bitsandbytes_model,
    dense_model,
    quatro_model,
    save_random_llama,
    through_q4_0,
    token_ids,
)
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer
from workers import Race, ResidentMemory, Turn, Worker, answer

CONTENDERS: dict[str, Callable[[str], PreTrainedModel]] = {
    "bitsandbytes, float32": lambda directory: bitsandbytes_model(directory, torch.float32),
    "bitsandbytes, bfloat16": lambda directory: bitsandbytes_model(directory, torch.bfloat16),
    "dense float32": lambda directory: dense_model(directory, torch.float32),
    "dense bfloat16": lambda directory: dense_model(directory, torch.bfloat16),
    "quatro": quatro_model,
}
LLAMA = {"llama.cpp Q4_0": "BF16", "the same, Q6_K head": "Q6_K"}
RIVALS, DENSE = ("bitsandbytes, float32", "bitsandbytes, bfloat16"), "dense float32"
Q4_0_REFERENCE = "dense float32 of Q4_0 weights"
REFERENCES = {Q4_0_REFERENCE: lambda directory: dense_model(directory, torch.float32, through_q4_0)}
TOLERANCE = {
    DENSE: 1e-4,
    "dense bfloat16": 5e-2,
    "bitsandbytes, float32": 5e-2,
    "bitsandbytes, bfloat16": 5e-2,
    "quatro": 1e-2,
    "llama.cpp Q4_0": 1e-1,
    "the same, Q6_K head": 1e-1,
}
"""How far the logits of a step may be from the reference's: the norm of the difference over the norm. Random weights magnify
differences; what rounding to 4 bits itself changes is 0.6."""
TURN, FEWEST = 10.0, 4
"""Seconds a turn may take, and tokens it has at least."""


class Clock(BaseStreamer):
    """Notes when the prompt and when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Generator:
    """A contender of transformers at work in its process."""

    def __init__(self, model: Callable[[str], PreTrainedModel], directory: str) -> None:
        self.memory = ResidentMemory()
        self.model = model(directory).eval()

    def check(self, prompt: list[int], tokens: int, file: str) -> list[int]:
        """Greedy tokens; the logits of each step are left in a file."""
        output = self._generate(prompt, tokens, output_logits=True, return_dict_in_generate=True)
        np.save(file, torch.cat(output.logits).float().numpy())
        return output.sequences[0, len(prompt) :].tolist()

    def generate(self, prompt: list[int], tokens: int) -> list[float]:
        """Seconds from the start to each token."""
        clock, start = Clock(), time.perf_counter()
        self._generate(prompt, tokens, streamer=clock)
        return [when - start for when in clock.times[1:]]

    def logits(self, prompt: list[int], following: list[int], file: str) -> None:
        """Leave the logits from which each of the following tokens would be chosen, computed in one pass, in a file."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + following[:-1]])).logits[0, len(prompt) - 1 :]
        np.save(file, logits.float().numpy())

    def bytes_per_token(self) -> int:
        """Of all weights, with their scales, but the embeddings."""
        embeddings = self.model.get_input_embeddings().weight
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.nbytes + _nbytes_of_scales(tensor) for tensor in tensors if tensor is not embeddings)

    def _generate(self, prompt: list[int], tokens: int, **options: Any) -> Any:
        ids = torch.tensor([prompt])
        return self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **options)


def _nbytes_of_scales(weight: torch.Tensor) -> int:
    """bitsandbytes keeps them beside a weight."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return 0
    return state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)


def main() -> None:
    options = _options()
    if options.worker:
        return work(options)
    torch.set_num_threads(options.threads)
    found = surroundings("quatro", "torch", "transformers", "bitsandbytes")
    prompt = token_ids(options.prompt)[0].tolist()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        save_random_llama(Path(directory), options.layers, options.hidden)
        workers = start(directory, options, stack)
        race = Race(workers, options.patience)
        counts = {name: affordable(race, worker, prompt, options.tokens) for name, worker in workers.items()}
        agreement = check(workers, prompt, counts, directory, options)
        measured, bandwidth = measure(race, prompt, counts, options.rounds)
    report(measured, bandwidth, options)
    write_result(
        "generate",
        {
            "layers": options.layers, "hidden": options.hidden, "prompt": options.prompt, "rounds": options.rounds,
            **found, "llama_cpp": llama_version(options.llama_python),
            "read_gb_s": bandwidth, "difference_from_reference": agreement, "by": measured,
        },
    )  # fmt: skip


def start(directory: str, options: argparse.Namespace, stack: ExitStack) -> dict[str, Worker]:
    """All contenders, loaded one after another."""
    workers = {name: stack.enter_context(transformers_worker(name, directory, options.threads)) for name in CONTENDERS}
    if llama_version(options.llama_python) is None:
        print(f"llama.cpp does not take part: {options.llama_python} lacks llama-cpp-python or gguf (see --llama-python)")
        return workers
    script = Path(__file__).with_name("llama_worker.py")
    for name, head in LLAMA.items():
        command = [options.llama_python, script, directory, head, options.threads]
        workers[name] = stack.enter_context(Worker(name, map(str, command), options.threads))
    return workers


def transformers_worker(name: str, directory: str, threads: int) -> Worker:
    command = [sys.executable, __file__, "--worker", name, "--directory", directory, "--threads", str(threads)]
    return Worker(name, command, threads)


def llama_version(python: str) -> str | None:
    """Of llama-cpp-python, where an interpreter can run llama_worker.py."""
    script = "import gguf, llama_cpp; print(llama_cpp.__version__)"
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def affordable(race: Race, worker: Worker, prompt: list[int], tokens: int) -> int:
    """How many tokens fit a turn, judged by a few after a warm-up."""
    worker.ask("generate", prompt=prompt, tokens=FEWEST)
    times = race.turn(worker, lambda worker: worker.ask("generate", prompt=prompt, tokens=FEWEST)).answer
    return max(FEWEST, min(tokens, int((TURN - times[0]) / statistics.median(gaps(times)))))


def gaps(times: list[float]) -> list[float]:
    """Seconds of every token after the first."""
    return [after - before for before, after in zip(times[:-1], times[1:], strict=True)]


def check(
    workers: dict[str, Worker], prompt: list[int], counts: dict[str, int], directory: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Differences from the references, printed. Raises SystemExit unless all are within tolerance."""
    with transformers_worker(Q4_0_REFERENCE, directory, options.threads) as q4_0_reference:
        found = {
            name: compare(worker, q4_0_reference if name in LLAMA else workers[DENSE], prompt, counts[name], Path(directory))
            for name, worker in workers.items()
        }
    print_table(
        "the first answer, beside dense float32 with the same 4-bit weights",
        ["by", "tokens", "the same", "logits differ by", "at worst"],
        [
            [name, str(row["tokens"]), str(row["same"]), f"{row['median']:.1e}", f"{row['worst']:.1e}"]
            for name, row in found.items()
        ],
    )
    for name, row in found.items():
        if not row["worst"] <= TOLERANCE[name] or row["unexplained"]:
            raise SystemExit(
                f"{name}: logits differ by {row['worst']:.1e}, {TOLERANCE[name]:.1e} is allowed; {row['unexplained']} "
                "tokens are others by more than that explains: nothing was measured"
            )
    return found


def compare(worker: Worker, reference: Worker, prompt: list[int], tokens: int, directory: Path) -> dict[str, Any]:
    """Generate, then let the reference judge every step, given the tokens before it."""
    chosen = worker.ask("check", prompt=prompt, tokens=tokens, file=str(directory / "got.npy"))
    reference.ask("logits", prompt=prompt, following=chosen, file=str(directory / "expected.npy"))
    got, expected = np.load(directory / "got.npy"), np.load(directory / "expected.npy")
    differences = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    lost = expected.max(1) - expected[np.arange(tokens), chosen]
    return {
        "tokens": tokens,
        "same": int((lost == 0).sum()),
        "unexplained": int((lost > 2 * np.abs(got - expected).max(1)).sum()),
        "median": float(np.median(differences)),
        "worst": float(differences.max()),
    }


def measure(race: Race, prompt: list[int], counts: dict[str, int], rounds: int) -> tuple[dict[str, dict[str, Any]], float]:
    """What every contender took, and GB/s of reading, measured before each round."""
    turns, speeds = [], []
    for _ in range(rounds):
        speeds.append(memory_bandwidth(rounds=3)["read"])
        turns.append(race.round(lambda worker: worker.ask("generate", prompt=prompt, tokens=counts[worker.name])))
    speed = statistics.median(speeds)
    return {name: summary(worker, [turn[name] for turn in turns], speed) for name, worker in race.workers.items()}, speed


def summary(worker: Worker, turns: list[Turn], read_gb_s: float) -> dict[str, Any]:
    """Medians over all tokens after the first, and over all first tokens."""
    times = [turn.answer for turn in turns]
    token = statistics.median(gap for turn in times for gap in gaps(turn))
    read = worker.ask("bytes_per_token")
    return {
        "ms_per_token": round(token * 1e3, 3),
        "tokens_per_s": round(1 / token, 3),
        "first_token_ms": round(statistics.median(turn[0] for turn in times) * 1e3, 1),
        "tokens_a_turn": len(times[0]),
        "turns_ms_per_token": [round(statistics.median(gaps(turn)) * 1e3, 2) for turn in times],
        "processors_used_by_others": [round(turn.others, 2) for turn in turns],
        "mb_per_token": round(read / 1e6, 1),
        "share_of_bandwidth": round(read / token / 1e9 / read_gb_s, 3),
        "resident_mb": round(worker.ask("resident")),
    }


def report(measured: dict[str, dict[str, Any]], read_gb_s: float, options: argparse.Namespace) -> None:
    rival = min(RIVALS, key=lambda name: measured[name]["ms_per_token"])
    against = {"rival": rival, "dense": DENSE} | ({"llama.cpp": next(iter(LLAMA))} if LLAMA.keys() <= measured.keys() else {})
    print_table(
        f"{options.layers} layers of {options.hidden}, {options.threads} threads, memory reads {read_gb_s:.1f} GB/s; rival: {rival}",
        ["by", "tokens/s", "ms", *(f"x {name}" for name in against), "MB read", "of memory", "1st ms"],
        [
            [
                name,
                f"{row['tokens_per_s']:.2f}",
                f"{row['ms_per_token']:.1f}",
                *(f"{measured[other]['ms_per_token'] / row['ms_per_token']:.2f}" for other in against.values()),
                f"{row['mb_per_token']:.0f}",
                f"{row['share_of_bandwidth']:.0%}",
                f"{row['first_token_ms']:.0f}",
            ]
            for name, row in measured.items()
        ],
    )


def work(options: argparse.Namespace) -> None:
    """What a contender's process does."""
    if options.worker in RIVALS:
        import bitsandbytes  # noqa: F401  (so that it does not count as memory of the model)
    torch.set_num_threads(options.threads)
    generator = Generator((CONTENDERS | REFERENCES)[options.worker], options.directory)
    answer(
        {
            "check": generator.check,
            "generate": generator.generate,
            "logits": generator.logits,
            "bytes_per_token": generator.bytes_per_token,
            "resident": generator.memory.now,
        }
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, layers=22)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument("--llama-python", default=sys.executable, help="an interpreter that has llama-cpp-python and gguf")
    parser.add_argument("--worker", choices=CONTENDERS | REFERENCES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
