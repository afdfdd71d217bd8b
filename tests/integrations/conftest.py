import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

IDS = torch.arange(40).view(2, 20) % 96


@pytest.fixture
def quantized(tiny_llama):
    from transformers import AutoModelForCausalLM

    import quatro

    return AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=quatro.QuatroConfig())


@pytest.fixture
def run_fresh(tmp_path: Path):
    """Run a script in a fresh interpreter and return what it printed; a failure shows its stderr."""

    def run(script: str) -> str:
        environment = os.environ | {"PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "2"}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def tiny_with_tokenizer(tiny_llama, tmp_path_factory):
    """The tiny Llama with a tokenizer of 96 single characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("with-tokenizer") / "model"
    shutil.copytree(tiny_llama, directory)
    tokenizer = Tokenizer(models.WordLevel({chr(32 + i): i for i in range(96)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=" ", pad_token="~", eos_token="}").save_pretrained(directory)
    return directory
