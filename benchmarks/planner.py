"""Planned beside measured: the peak resident memory of training runs on a CPU.

    python benchmarks/planner.py [--threads 1] [--only NAME ...]

Every run is a process of its own that makes a random model, loads it as `quatro train` does, and takes three steps with
quatro's own trainer. Measured is VmHWM from the loading on, above VmRSS after the imports. Planned is quatro.plan of the same
configuration; nothing in it is fitted to these runs. One row is a model of no size: what it takes is the plan's `process`, and named so.

Each run is measured twice. With MALLOC_MMAP_THRESHOLD_=131072 the C library gives a tensor's memory back when it is let go, so that
resident memory is what the run needs; that is what is planned. As glibc is by default it keeps memory between tensors, which is
faster: `default glibc` shows how much more that is. It differs from run to run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from harness import print_table, surroundings, write_result

MIB = 2**20
STEPS, ROWS = 3, 8
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "131072"}
LLAMA = {
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "vocab_size": 32000,
}
CHECKPOINT = {
    "none": {},
    "products": {"gradient_checkpointing": True},
    "all": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


@dataclass(frozen=True)
class Run:
    """config: transformers' configuration class and its options. bf16: products and autocast in bfloat16, else float32."""

    config: str
    options: dict[str, Any]
    length: int = 512
    batch: int = 1
    r: int = 16
    accumulation: int = 1
    dropout: float = 0.0
    checkpointing: str = "none"
    optim: str = "adamw_torch_fused"
    bf16: bool = True
    targets: str | list[str] = "all-linear"

    def planned(self, directory: str, threads: int) -> Any:
        import quatro

        return quatro.plan(
            directory,
            r=self.r,
            targets=self.targets,
            batch=self.batch,
            length=self.length,
            accumulation=self.accumulation,
            optim=self.optim,
            checkpointing=self.checkpointing,
            dropout=self.dropout,
            compute="bfloat16" if self.bf16 else "float32",
            device="cpu",
            threads=threads,
        )


NO_SIZE = {"vocab_size": 128, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
GPT2 = {
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
QWEN3 = {**LLAMA, "head_dim": 64, "num_hidden_layers": 6, "max_window_layers": 6}
RUNS = {
    "no size, bfloat16": Run("Llama", NO_SIZE, length=64),
    "no size, float32": Run("Llama", NO_SIZE, length=64, bf16=False),
    "llama 8 layers": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, batch=2),
    "llama 8, float32": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, batch=2, bf16=False),
    "llama 8, products kept": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, batch=4, checkpointing="products"),
    "llama 8, all again, sgd": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, batch=4, checkpointing="all", optim="sgd"),
    "llama 16, dropout": Run("Llama", {**LLAMA, "num_hidden_layers": 16}, length=512, dropout=0.05, r=8),
    "llama 4, long": Run("Llama", {**LLAMA, "num_hidden_layers": 4}, length=2048),
    "llama 8, r=128": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, length=256, r=128, optim="adamw_torch"),
    "llama 8, r=128, accumulated": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, length=256, r=128, accumulation=2),
    "llama 8, q and v": Run("Llama", {**LLAMA, "num_hidden_layers": 8}, batch=2, targets=["q_proj", "v_proj"]),
    "qwen3 6, rmsprop": Run("Qwen3", QWEN3, batch=2, optim="rmsprop"),
    "gpt2 12": Run("GPT2", GPT2, batch=2),
}  # fmt: skip


def main() -> None:
    options = _options()
    if options.worker:
        return work(RUNS[options.worker], options.directory)
    found = surroundings("quatro", "torch", "transformers", "peft")
    rows = {name: measured(name, options.threads) for name in options.only or RUNS}
    print_table(
        f"peak resident memory above the imports, {options.threads} threads",
        ["run", "planned MB", "measured MB", "error", "default glibc MB", "more"],
        [
            [
                name,
                f"{row['planned'] / 1e6:.0f}",
                f"{row['measured'] / 1e6:.0f}",
                f"{row['error_percent']:+.1f} %",
                f"{row['default_glibc'] / 1e6:.0f}",
                f"{100 * (row['default_glibc'] / row['measured'] - 1):+.0f} %",
            ]
            for name, row in rows.items()
        ],
    )
    if not options.only:
        write_result("planner", {**found, "threads": options.threads, "runs": rows})


def measured(name: str, threads: int) -> dict[str, Any]:
    run = RUNS[name]
    with tempfile.TemporaryDirectory() as directory:
        save_random_model(run, directory)
        plan = run.planned(directory, threads)
        resident = {how: _peak(name, directory, threads, how) for how in ("returning", "default")}
    return {
        **{
            key: getattr(run, key)
            for key in (
                "config",
                "batch",
                "length",
                "accumulation",
                "r",
                "dropout",
                "checkpointing",
                "optim",
                "bf16",
                "targets",
            )
        },
        "planned": plan.total,
        "parts": {part: found.bytes for part, found in plan.parts.items()},
        "measured": resident["returning"],
        "error_percent": round(100 * (plan.total / resident["returning"] - 1), 2),
        "default_glibc": resident["default"],
    }


def save_random_model(run: Run, directory: str) -> None:
    """bfloat16, with the smallest tokenizer there is."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    config = getattr(transformers, f"{run.config}Config")(**run.options)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    words = Tokenizer(WordLevel({"<unk>": 0}, "<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)


def _peak(name: str, directory: str, threads: int, how: str) -> int:
    silent = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    env = {**os.environ, **silent, "OMP_NUM_THREADS": str(threads), **(RETURNING if how == "returning" else {})}
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name, "--directory", directory]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def work(run: Run, directory: str) -> None:
    """What a run's process does."""
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401
    from workers import ResidentMemory

    from quatro.data.collate import collate
    from quatro.train.arguments import training_arguments
    from quatro.train.model import adapted_model
    from quatro.train.recipe import recipe_of
    from quatro.train.trainer import QuatroTrainer

    recipe = recipe_of(
        {
            "model": directory,
            "lora": {"r": run.r, "lora_dropout": run.dropout, "target_modules": run.targets},
            "data": {"train": "none", "max_length": run.length},
            "train": {
                "eval_strategy": "no",
                "save_strategy": "no",
                "per_device_train_batch_size": run.batch,
                "gradient_accumulation_steps": run.accumulation,
                "max_steps": STEPS,
                "optim": run.optim,
                "bf16": run.bf16,
                **CHECKPOINT[run.checkpointing],
            },
            "output_dir": f"{directory}/run",
        }
    )
    memory = ResidentMemory()
    memory.restart()
    model = adapted_model(recipe)
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, model.config.vocab_size, (run.length,), generator=draw).numpy() for _ in range(ROWS)]
    rows = [{"input_ids": ids, "labels": ids} for ids in drawn]
    arguments = training_arguments(recipe.train, recipe.output_dir)
    QuatroTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    print(json.dumps({"peak": round(memory.peak() * 1e6)}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=RUNS, help="runs; their result is not written")
    parser.add_argument("--worker", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
