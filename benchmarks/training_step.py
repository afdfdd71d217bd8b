"""One training step of a few layers of a 1.1B Llama and its head: PEFT on bitsandbytes, on dense torch, and on quatro.

    python benchmarks/training_step.py [--layers 4] [--hidden 2048] [--tokens 64 512] [--rounds 5] [--threads N]

A step is forward, backward and AdamW over the adapter: batch 1, LoRA r=16 (alpha 32, no dropout, so that losses can be compared) on
all linear layers, every layer checkpointed. The weights are random. Each contender runs in a process of its own, and they take turns.
bitsandbytes is prepared as its users do (prepare_model_for_kbit_training), once with float32 products and once with bfloat16
ones under autocast, as Trainer's bf16=True runs them; ratios are to the faster of the two. quatro runs likewise in both, once
with plain PEFT and once with the model and the loss that `quatro train` has.

First the losses and the gradients of all adapters are compared with those of dense float32 torch, whose linear layers hold
quatro's dequantized weights (as both dense contenders do); nothing is measured if they differ by more than TOLERANCE.
Memory is the most that was resident during the steps, above what the imports had left: the model is in it, loading it is not, but
pages of the checkpoint that the model keeps mapped are.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import memory_bandwidth, print_table, surroundings, write_result
from models import add_common_options, bitsandbytes_model, dense_model, quatro_model, save_random_llama, token_ids
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from workers import Race, ResidentMemory, Turn, Worker, answer

from quatro.train.arguments import training_arguments
from quatro.train.checkpointing import checkpoint_layers, keep_products
from quatro.train.model import adapted_model
from quatro.train.recipe import Recipe, recipe_of
from quatro.train.trainer import QuatroTrainer

TOLERANCE = {
    torch.float32: {"loss": 1e-4, "gradient": 1e-2},
    torch.bfloat16: {"loss": 1e-3, "gradient": 5e-2},
}
"""Relative: |loss - reference| and the norm of the gradients' difference, by the dtype of the products. One matrix of the 28 that is
5 % too large moves the gradients by 4e-2 and the loss by 5e-4; weights that were not rounded to 4 bits, by 0.54 and 1e-3."""


def models_loss(model: PeftModel, _: str) -> Callable[[Tensor], Tensor]:
    """As transformers takes it."""
    return lambda ids: model(input_ids=ids, labels=ids).loss


@dataclass(frozen=True)
class Contender:
    """How a model is made and its loss taken, and in which dtype products run; bfloat16 ones run under autocast."""

    model: Callable[[str], PeftModel]
    dtype: torch.dtype = torch.float32
    loss: Callable[[PeftModel, str], Callable[[Tensor], Tensor]] = models_loss


def bitsandbytes_step_model(directory: str, dtype: torch.dtype) -> PeftModel:
    """As PEFT's users of bitsandbytes make it."""
    model = bitsandbytes_model(directory, dtype)
    return with_adapter(prepare_model_for_kbit_training(model, True, gradient_checkpointing_kwargs={"use_reentrant": False}))


def dense_step_model(directory: str, dtype: torch.dtype) -> PeftModel:
    return with_adapter(checkpointed(dense_model(directory, dtype)))


def quatro_peft_model(directory: str) -> PeftModel:
    """With nothing but transformers' and PEFT's own means."""
    return with_adapter(checkpointed(quatro_model(directory)))


def quatro_step_model(directory: str) -> PeftModel:
    """As `quatro train` makes it with gradient_checkpointing: true."""
    model = adapted_model(recipe(directory))
    keep_products(model)
    return model


def quatro_step_loss(model: PeftModel, directory: str) -> Callable[[Tensor], Tensor]:
    """As `quatro train` takes it."""
    chosen = recipe(directory)
    trainer = QuatroTrainer(model=model, args=training_arguments(chosen.train, chosen.output_dir))
    return lambda ids: trainer.compute_loss(model, {"input_ids": ids, "labels": ids})


def recipe(directory: str) -> Recipe:
    """A run on the model in a directory, without dropout, data or anything that is saved."""
    return recipe_of(
        {
            "model": directory,
            "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0},
            "data": {"train": "none"},
            "train": {"eval_strategy": "no", "save_strategy": "no"},
            "output_dir": f"{directory}/run",
        }
    )


CONTENDERS = {
    "bitsandbytes, float32": Contender(lambda directory: bitsandbytes_step_model(directory, torch.float32)),
    "bitsandbytes, bfloat16": Contender(lambda directory: bitsandbytes_step_model(directory, torch.bfloat16), torch.bfloat16),
    "dense float32": Contender(lambda directory: dense_step_model(directory, torch.float32)),
    "dense bfloat16": Contender(lambda directory: dense_step_model(directory, torch.bfloat16), torch.bfloat16),
    "quatro with PEFT, float32": Contender(quatro_peft_model),
    "quatro with PEFT, bfloat16": Contender(quatro_peft_model, torch.bfloat16),
    "quatro train, float32": Contender(quatro_step_model, torch.float32, quatro_step_loss),
    "quatro train, bfloat16": Contender(quatro_step_model, torch.bfloat16, quatro_step_loss),
}
RIVALS = ("bitsandbytes, float32", "bitsandbytes, bfloat16")
REFERENCE = "dense float32"
WARMUPS = 1


def checkpointed(model: PreTrainedModel | PeftModel) -> Any:
    checkpoint_layers(model)
    return model


def with_adapter(model: PreTrainedModel) -> PeftModel:
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The adapter's factors by name, sorted."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


class Trainee:
    """A contender at work in its process."""

    def __init__(self, contender: Contender, directory: str) -> None:
        self.memory = ResidentMemory()
        self.model, self.dtype = contender.model(directory).train(), contender.dtype
        self.adapter, self.loss = trained(self.model), contender.loss(self.model, directory)
        self._randomize()
        self.optimizer = torch.optim.AdamW(self.adapter.values(), lr=2e-4, fused=True)

    def gradients(self, tokens: int, file: str) -> float:
        """The loss before any step; the gradients are left in a file."""
        loss = self._backward(tokens)
        save_file({name: parameter.grad.float() for name, parameter in self.adapter.items()}, file)
        self.optimizer.zero_grad()
        return loss

    def step(self, tokens: int) -> float:
        """Seconds of a step."""
        start = time.perf_counter()
        self._backward(tokens)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def _backward(self, tokens: int) -> float:
        with torch.autocast("cpu", self.dtype) if self.dtype != torch.float32 else nullcontext():
            loss = self.loss(token_ids(tokens))
        loss.backward()
        return loss.item()

    def _randomize(self) -> None:
        """Both factors, the same for all contenders: with PEFT's B of zeros A would have no gradient to compare."""
        generator = torch.Generator().manual_seed(0)
        for parameter in self.adapter.values():
            parameter.data.normal_(std=0.02, generator=generator)


def main() -> None:
    options = _options()
    if options.worker:
        return work(options)
    torch.set_num_threads(options.threads)
    found = surroundings("quatro", "torch", "transformers", "peft", "bitsandbytes")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        save_random_llama(Path(directory), options.layers, options.hidden)
        save_smallest_tokenizer(directory)
        workers = {name: stack.enter_context(_worker(name, directory, options.threads)) for name in CONTENDERS}
        agreement = {tokens: check(workers, tokens, Path(directory)) for tokens in options.tokens}
        race = Race(workers, options.patience)
        measured = {tokens: measure(race, tokens, options.rounds) for tokens in options.tokens}
    for tokens in options.tokens:
        report(tokens, measured[tokens], options)
    write_result(
        "training_step",
        {
            "layers": options.layers, "hidden": options.hidden, "r": 16, "batch": 1, "rounds": options.rounds,
            **found,
            "bandwidth_gb_s": memory_bandwidth(), "difference_from_reference": agreement, "tokens": measured,
        },
    )  # fmt: skip


def check(workers: dict[str, Worker], tokens: int, directory: Path) -> dict[str, dict[str, float]]:
    """Relative differences from the reference, printed. Raises SystemExit unless all are within tolerance."""
    files = {name: directory / f"{index}.safetensors" for index, name in enumerate(workers)}
    losses = {name: worker.ask("gradients", tokens=tokens, file=str(files[name])) for name, worker in workers.items()}
    gradients = {name: load_file(file) for name, file in files.items()}
    reference = gradients[REFERENCE]
    found = {
        name: {
            "loss": abs(losses[name] / losses[REFERENCE] - 1),
            "gradient": relative_difference(gradients[name], reference),
        }
        for name in workers
    }
    rows = [[name, f"{losses[name]:.5f}", *(f"{value:.1e}" for value in found[name].values())] for name in workers]
    print_table(f"the first step of {tokens} tokens, beside {REFERENCE}", ["by", "loss", "difference", "of gradients"], rows)
    for name, differences in found.items():
        for what, value in differences.items():
            allowed = TOLERANCE[CONTENDERS[name].dtype][what]
            if not value <= allowed:
                raise SystemExit(f"{name}: the {what} differs by {value:.1e}, {allowed:.1e} is allowed: nothing was measured")
    return found


def relative_difference(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The norm of the difference over the norm of what was expected, all tensors taken as one vector."""
    if got.keys() != expected.keys():
        raise SystemExit(f"the adapters differ in {sorted(got.keys() ^ expected.keys())[:3]}: nothing was measured")
    difference = sum((got[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(value.square().sum() for value in expected.values())).sqrt())


def measure(race: Race, tokens: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and megabytes of every contender."""
    for worker in race.workers.values():
        worker.ask("restart")
    turns = [race.round(lambda worker: worker.ask("step", tokens=tokens)) for _ in range(WARMUPS + rounds)][WARMUPS:]
    return {name: summary(worker, [turn[name] for turn in turns]) for name, worker in race.workers.items()}


def summary(worker: Worker, turns: list[Turn]) -> dict[str, Any]:
    seconds = [turn.answer for turn in turns]
    return {
        "seconds": statistics.median(seconds),
        "rounds": [round(value, 4) for value in seconds],
        "peak_mb": round(worker.ask("peak")),
        "processors_used_by_others": [round(turn.others, 2) for turn in turns],
    }


def report(tokens: int, measured: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    rival = min(RIVALS, key=lambda name: measured[name]["seconds"])
    print_table(
        f"a step of {tokens} tokens, {options.layers} layers of {options.hidden} and the head, {options.threads} threads; rival: {rival}",
        ["by", "seconds", "tokens/s", "times rival", "times dense", "peak MB", "of rival's"],
        [
            [
                name,
                f"{row['seconds']:.3f}",
                f"{tokens / row['seconds']:.0f}",
                f"{measured[rival]['seconds'] / row['seconds']:.2f}",
                f"{measured[REFERENCE]['seconds'] / row['seconds']:.2f}",
                f"{row['peak_mb']:.0f}",
                f"{row['peak_mb'] / measured[rival]['peak_mb']:.2f}",
            ]
            for name, row in measured.items()
        ],
    )


def save_smallest_tokenizer(directory: str) -> None:
    """`quatro train` loads a model with its tokenizer."""
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, "<unk>"))).save_pretrained(directory)


def work(options: argparse.Namespace) -> None:
    """What a contender's process does."""
    if options.worker in RIVALS:
        import bitsandbytes  # noqa: F401  (so that it does not count as memory of the model)
    torch.set_num_threads(options.threads)
    trainee = Trainee(CONTENDERS[options.worker], options.directory)
    answer(
        {
            "gradients": trainee.gradients,
            "step": trainee.step,
            "restart": trainee.memory.restart,
            "peak": trainee.memory.peak,
        }
    )


def _worker(name: str, directory: str, threads: int) -> Worker:
    command = [sys.executable, "-W", "ignore::FutureWarning", __file__, "--worker", name, "--directory", directory]
    return Worker(name, [*command, "--threads", str(threads)], threads)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, layers=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 512], help="lengths of the sequence")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
