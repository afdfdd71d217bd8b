"""Every packaged recipe that asks for data trains at toy size with its own keys."""

from pathlib import Path

import pytest

from quatro.recipes import named_recipe, packaged_names
from quatro.train.run import train

NEED_DATA = [name for name in packaged_names() if name != "demo"]


@pytest.mark.parametrize("name", NEED_DATA)
def test_it_runs(name: str, base: Path, rows: Path, tmp_path: Path) -> None:
    toy = [
        f"model={base}",
        f"data.train={rows}",
        "data.eval=0.2",
        "data.max_length=64",
        "train.max_steps=2",
        "train.save_steps=1",
    ]
    result = train(named_recipe(name, [*toy, f"output_dir={tmp_path / 'run'}", "train.gradient_accumulation_steps=2"]))
    assert result.steps == 2
    assert result.memory_planned is not None


def test_guanaco_is_the_paper_s() -> None:
    found = named_recipe("guanaco-7b", ["data.train=x.jsonl"])
    assert (found.lora.r, found.lora.lora_alpha, found.lora.lora_dropout, found.lora.target_modules) == (
        64,
        16,
        0.1,
        "all-linear",
    )
    wanted = {
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.3,
        "adam_beta2": 0.999,
        "max_steps": 1875,
        "optim": "paged_adamw_32bit",
    }
    assert {name: found.train[name] for name in wanted} == wanted
    assert found.train["per_device_train_batch_size"] * found.train["gradient_accumulation_steps"] == 16
