"""The tiny models of the generation tests, with an adapter on one of them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "generation"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Toy models gain nothing from several threads, and lose much where these wait for a processor."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    from tiny_models import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    from tiny_models import random_llama

    return random_llama(tokenizer)


@pytest.fixture(scope="session")
def adapted(tokenizer):
    """A base with an adapter that moves its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_models import random_llama

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(random_llama(tokenizer), config).eval()


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows to a jsonl file and gives its path."""

    def write(rows, name="held.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write
