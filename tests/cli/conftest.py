"""The command line on tiny models: in this process through typer's runner, and as a program of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

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
def model_dir(tmp_path_factory):
    from tiny_models import saved

    return saved(tmp_path_factory.mktemp("models") / "tiny")


def save_adapter(base, directory, seed=1):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def adapter_dir(model_dir, tmp_path_factory):
    return save_adapter(model_dir, tmp_path_factory.mktemp("adapters") / "tiny")


@pytest.fixture(scope="session")
def wrong_adapter(tmp_path_factory):
    """An adapter made for a base of another width."""
    from tiny_models import saved

    place = tmp_path_factory.mktemp("wrong")
    return save_adapter(saved(place / "narrow", hidden=32), place / "adapter")


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries():
    """What the program does for its process before it starts."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def run():
    """Runs a command line in this process; the result has stdout, stderr and exit_code."""
    from quatro.cli.main import app

    def invoke(*args, input=None):
        return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(
            app, [str(arg) for arg in args], input=input, prog_name="quatro"
        )

    return invoke


@pytest.fixture(scope="session")
def program():
    """Runs a command line as a program of its own."""

    def start(*args, **options):
        command = [sys.executable, "-m", "quatro", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    return start


@pytest.fixture
def held_file(tmp_path):
    from tiny_models import chat_row

    rows = [chat_row(f"What is {name}?", f"It is {name}.", fact=name) for name in ("alpha", "beta", "gamma")]
    file = tmp_path / "held.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
