import os
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
