"""A tiny Llama with a byte tokenizer, a little data, and recipes for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quatro.train.recipe import Recipe, recipe_of
from quatro.train.result import Result
from quatro.train.run import train

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that reads 64 tokens, with a tokenizer whose tokens are bytes."""
    directory = tmp_path_factory.mktemp("models") / "base"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocabulary, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token="<s>", eos_token="</s>").save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=64, bos_token_id=0, eos_token_id=1, **SHAPE)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 prompts with completions of different lengths."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = [{"prompt": f"q{i}?", "completion": " yes" * (1 + i % 3) + f" {i % 5}"} for i in range(24)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def recipe(base: Path, rows: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of eight short steps in float32; keyword arguments replace or add sections, train's and data's keys one by one."""
    return recipes(base, rows, tmp_path / "run")


def recipes(base: Path, rows: Path, output_dir: Path) -> Callable[..., Recipe]:
    def make(train: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **others: Any) -> Recipe:
        steps = {"max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 5e-3,
                 "logging_steps": 1, "save_steps": 3, "eval_steps": 4, "bf16": False}  # fmt: skip
        values = {
            "model": str(base),
            "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
            "data": {"train": str(rows), "eval": 0.2, **(data or {})},
            "train": {**steps, **(train or {})},
            "output_dir": str(output_dir),
        }
        return recipe_of({**values, **others})

    return make


@pytest.fixture(scope="session")
def whole(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The recipe, run from its first step to its last without any disturbance."""
    return train(recipes(base, rows, tmp_path_factory.mktemp("whole") / "run")())
