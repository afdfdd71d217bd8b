"""A run is planned before it starts, refused where it cannot fit, and reports what it took beside the plan."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import quatro
from quatro.format.errors import MachineError
from quatro.train import run
from quatro.train.memory import free_memory, run_plan
from quatro.train.recipe import Recipe
from quatro.train.result import Result

GIB = 1 << 30


def test_a_recipe_s_plan_is_the_planner_s_for_the_same_numbers(recipe: Callable[..., Recipe], base: Path) -> None:
    found = run_plan(recipe({"gradient_checkpointing": True, "optim": "paged_adamw_8bit"}), 50)
    expected = quatro.plan(
        base, r=4, batch=2, length=50, accumulation=2, dropout=0.1, optim="paged_adamw_8bit", checkpointing="products",
        compute="float32", device="cpu", threads=torch.get_num_threads(),
    )  # fmt: skip
    assert found.plan == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "none"),
        ({"train": {"gradient_checkpointing": True}}, "products"),
        ({"train": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}}, "all"),
        ({"activations": {"budget": "1GiB"}}, "all"),
    ],
)
def test_checkpointing_is_planned_as_the_run_does_it(recipe: Callable[..., Recipe], values: Any, expected: str) -> None:
    assert run_plan(recipe(**values), 50).settings.checkpointing == expected


def test_what_cannot_fit_is_refused_with_what_would_before_anything_is_written(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = recipe({"per_device_train_batch_size": 64})
    decided, tokenizer = run.resolve(long)
    needed = run_plan(decided, run.longest(decided, run.prepare_data(decided, tokenizer))).plan.total
    monkeypatch.setattr(run, "free_memory", lambda: needed - 1)
    with pytest.raises(MachineError, match="is planned to take .* are free; it would fit if you checkpoint"):
        run.train(long)
    monkeypatch.setattr(run, "free_memory", lambda: 1 << 20)
    with pytest.raises(MachineError, match="no batch, length or rank of this model fits"):
        run.train(long)
    assert not (tmp_path / "run").exists()
    assert run.train(recipe({"max_steps": 1}), force=True).steps == 1


def test_a_report_shows_what_was_planned_beside_what_was_measured(whole: Result) -> None:
    assert whole.memory_planned > 0
    line = next(line for line in whole.report.read_text().splitlines() if "memory at its peak" in line)
    assert "measured" in line
    assert "planned" in line


def test_a_run_in_a_process_of_its_own_takes_more_than_its_weights_and_less_than_twice_the_plan(
    recipe: Callable[..., Recipe],
) -> None:
    values = recipe({"max_steps": 2}).as_dict()
    code = f"from quatro.train.recipe import recipe_of; from quatro.train.run import train; print(train(recipe_of({values!r})).memory_measured)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    plan = run_plan(recipe({"max_steps": 2}), 50).plan
    assert plan.parts["4-bit weights"].bytes + plan.parts["dense weights"].bytes < int(done.stdout.split()[-1]) < 2 * plan.total


def test_a_model_that_the_planner_does_not_know_is_trained_without_a_plan(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    for file in base.iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"granite"'))
    assert run_plan(recipe(model=str(tmp_path / "other")), 50) is None
    assert "memory is not planned before this run" in caplog.text


def test_peaks_are_seen_and_free_memory_is_a_number() -> None:
    code = "import torch; from quatro.train.memory import PeakMemory as P; p = P(); torch.ones(25_000_000); print(p.bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 90_000_000 < int(done.stdout) < 140_000_000
    assert 0 < free_memory() < 1 << 50


def test_where_memory_is_short_what_is_freed_goes_back_at_once(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(run, "give_back_at_once", lambda: asked.append(True) or True)
    plan = run_plan(recipe(), 50)
    for free, expected in ((plan.plan.total * 2, 0), (int(plan.plan.total * 1.2), 1)):
        monkeypatch.setattr(run, "free_memory", lambda free=free: free)
        run._make_room(plan, force=False)
        assert len(asked) == expected
    assert "memory is short" in caplog.text


def test_the_c_library_takes_the_order() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from quatro.train.memory import give_back_at_once; print(give_back_at_once())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() in ("True", "False")
