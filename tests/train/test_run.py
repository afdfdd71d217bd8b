import io
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console

from quatro.data.prepare import prepare
from quatro.format.errors import DatasetError, MachineError, RecipeError, TemplateError
from quatro.integrations.adapters import attach
from quatro.integrations.loading import load, load_tokenizer
from quatro.train.directory import WEIGHTS, is_whole
from quatro.train.recipe import Recipe, recipe_of
from quatro.train.result import Result
from quatro.train.run import planned, prepare_data, resolve, train
from quatro.train.trainer import QuatroTrainer


def _losses(result: Result) -> list[tuple[int, float]]:
    return [(entry["step"], entry.get("loss", entry.get("eval_loss"))) for entry in result.history if "train_loss" not in entry]


@contextmanager
def _interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int, happen: Callable[[], None]) -> Iterator[None]:
    """Something happens in the middle of the accumulation of a step."""
    original = QuatroTrainer.training_step
    seen = {"calls": 0}

    def training_step(self: QuatroTrainer, *args: Any, **options: Any) -> torch.Tensor:
        if self.state.global_step == step - 1:
            seen["calls"] += 1
            if seen["calls"] == 2:
                happen()
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(QuatroTrainer, "training_step", training_step)
        yield


def _power_cut() -> None:
    raise ConnectionError("the lights went out")


def test_a_run_leaves_an_adapter_that_peft_reads_alone(whole: Result, recipe: Callable[..., Recipe], base: Path) -> None:
    result = whole
    assert result.loss_after < result.loss_before - 0.5
    for again in (PeftModel.from_pretrained(load(base)[0], str(result.adapter_dir)), attach(load(base)[0], result.adapter_dir)):
        assert _held_out(again.eval(), recipe()) == pytest.approx(result.loss_after, abs=1e-5)
    assert _held_out(load(base)[0].eval(), recipe()) == pytest.approx(result.loss_before, abs=1e-5)


def _held_out(model: Any, recipe: Recipe) -> float:
    data = prepare(load_tokenizer(recipe.model), recipe.data.train, recipe.data.eval, max_length=64, seed=42)
    total, count = 0.0, 0
    for row in data.held:
        ids, labels = torch.from_numpy(row["input_ids"])[None], torch.from_numpy(row["labels"])[None]
        learned = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * learned
        count += learned
    return total / count


@pytest.mark.parametrize("units", [True, False])
def test_a_run_is_in_bf16_where_the_machine_has_units_for_it_and_nothing_else_is_said(
    base: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    monkeypatch.setattr("quatro.train.run.has_bf16_units", lambda: units)

    def decided(**train: bool) -> dict[str, Any]:
        return resolve(recipe_of({"model": str(base), "data": {"train": str(rows)}, "output_dir": "x", "train": train}))[
            0
        ].train

    assert decided()["bf16"] is units
    assert decided(bf16=not units)["bf16"] is not units
    assert "bf16" not in decided(fp16=False)


def test_a_run_directory_says_what_was_done(whole: Result) -> None:
    result, run = whole, whole.output_dir
    names = {path.name for path in run.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "quatro_base.json",
        "tokenizer.json",
        "recipe.yaml",
        "report.md",
        "loss.png",
    } <= names
    assert {"checkpoint-3", "checkpoint-6", "checkpoint-8", "trainer_state.json"} <= names
    assert (run / "checkpoint-8/quatro_base.json").read_bytes() == (run / "quatro_base.json").read_bytes()
    assert not [name for name in names if name.startswith(".")]
    assert yaml.safe_load((run / "recipe.yaml").read_text()) == result.recipe.as_dict()
    assert result.recipe.data.max_length == 64, "the resolved recipe says how long sequences are"
    report = (run / "report.md").read_text()
    for said in (f"{result.loss_before:.4f}", f"{result.loss_after:.4f}", "19 sequences to train on, 5 held out", "8 (",
                 f"{result.trainable:,} weights", f"quatro chat {result.recipe.model} --adapter {run}", "loss.png"):  # fmt: skip
        assert said in report
    assert json.loads(json.dumps(result.as_dict()))["steps"] == 8
    assert [step for step, _ in _losses(result)] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8], "before, each step, and at 4 and 8"


@pytest.mark.parametrize(("at", "last"), [(5, 3), (8, 6)])
def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(
    whole: Result, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, last: int
) -> None:
    """Dropout, accumulation, a second epoch, held-out evaluation: cut off inside a step, the rest comes out the same."""
    with _interrupted_at(monkeypatch, at, _power_cut), pytest.raises(ConnectionError):
        train(recipe())
    assert not (tmp_path / "run" / "report.md").exists()
    resumed = train(recipe(), resume=True)
    assert resumed.resumed_from == last
    assert resumed.epochs > 1
    assert (resumed.loss_before, resumed.loss_after) == (whole.loss_before, whole.loss_after)
    _same_to_the_bit(resumed, whole)


def _same_to_the_bit(one: Result, other: Result) -> None:
    assert _losses(one) == _losses(other)
    for name in ("adapter_model.safetensors", "checkpoint-8/optimizer.pt"):
        assert (one.output_dir / name).read_bytes() == (other.output_dir / name).read_bytes(), name


def test_a_run_that_is_out_of_time_saves_and_the_same_command_goes_on_to_the_same_bits(
    whole: Result, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for step in range(1, 8):
        with pytest.raises(MachineError, match=f"stopped at step {step}, before max_hours"):
            train(recipe(max_hours=1e-9))
        assert not (tmp_path / "run" / "report.md").exists()
    last = train(recipe(max_hours=1e-9))
    assert last.resumed_from == 7
    assert (last.output_dir / WEIGHTS).read_bytes() == (whole.output_dir / WEIGHTS).read_bytes()


def test_a_signal_saves_the_step_and_the_same_command_goes_on(
    whole: Result, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(number: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with (
            _interrupted_at(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM)),
            pytest.raises(SystemExit, match="143"),
        ):
            train(recipe())
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, before)
    assert is_whole(tmp_path / "run" / "checkpoint-5")
    resumed = train(recipe())
    assert resumed.resumed_from == 5
    _same_to_the_bit(resumed, whole)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write a file beyond this size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [70_000, 200_000], ids=["no room for the adapter", "no room for the optimizer"])
def test_a_full_disk_leaves_no_half_checkpoint(recipe: Callable[..., Recipe], tmp_path: Path, room: int) -> None:
    large = recipe(lora={"r": 16})
    with (
        _files_of_at_most(room),
        pytest.raises(MachineError, match=r"could not write .*checkpoint-3: .* Nothing of it was kept"),
    ):
        train(large)
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"recipe.yaml"}
    assert train(large).resumed_from is None


def test_a_full_disk_at_the_end_leaves_no_half_adapter(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    large = recipe(lora={"r": 16}, train={"save_strategy": "no"})
    with _files_of_at_most(70_000), pytest.raises(MachineError, match="could not write"):
        train(large)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.yaml"}


def test_a_failing_checkpoint_leaves_the_ones_before_it(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: QuatroTrainer, directory: str) -> None:
        if self.state.global_step == 6:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(QuatroTrainer, "_save_scaler", no_space)
    with pytest.raises(
        MachineError, match=r"checkpoint-6: No space left on device. Nothing of it was kept; checkpoint-3 is whole"
    ):
        train(recipe())
    monkeypatch.undo()
    assert train(recipe()).resumed_from == 3


def test_the_same_run_twice_is_refused_and_overwriting_does_it_again(recipe: Callable[..., Recipe]) -> None:
    short = {"max_steps": 2, "eval_strategy": "no"}
    train(recipe(train=short))
    with pytest.raises(RecipeError, match="holds this run, finished"):
        train(recipe(train=short))
    assert train(recipe(train={**short, "max_steps": 3}), overwrite=True).steps == 3


def test_packing_leaves_the_held_out_loss_comparable(whole: Result, recipe: Callable[..., Recipe]) -> None:
    packed = train(recipe(data={"packing": True}, train={"max_steps": 4}))
    assert packed.loss_before == whole.loss_before
    assert packed.loss_after < packed.loss_before


def test_activation_checkpointing_changes_memory_not_numbers(whole: Result, recipe: Callable[..., Recipe]) -> None:
    kept = train(recipe(train={"gradient_checkpointing": True, "max_steps": 4, "warmup_steps": 1}))
    assert [loss for _, loss in _losses(kept)] == pytest.approx([loss for _, loss in _losses(whole)[:6]], abs=1e-5)


def test_method_lora_trains_on_the_dense_base(recipe: Callable[..., Recipe]) -> None:
    result = train(recipe(method="lora"))
    assert result.loss_after < result.loss_before - 0.5


def test_nothing_held_out_is_allowed_and_said(recipe: Callable[..., Recipe]) -> None:
    result = train(recipe(data={"eval": None}))
    assert (result.loss_before, result.loss_after) == (None, None)
    assert "Nothing was held out" in result.report.read_text()


def test_chats_take_their_template_along(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    texts = [{"text": f"### Comment: q{i} ### REPLY: yes {i} ### END."} for i in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in texts))
    result = train(recipe(data={"train": str(path)}, train={"max_steps": 2}))
    assert result.template == "comment-reply"
    assert f"--adapter {result.adapter_dir} --template comment-reply" in result.report.read_text()
    tokenizer = load_tokenizer_of_adapter(result.adapter_dir)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False, add_generation_prompt=True)
    assert asked == "<s>### Comment: q ### REPLY:"


def load_tokenizer_of_adapter(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def test_bad_data_leaves_no_directory_behind(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "chat.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    for name, error in (("none.jsonl", DatasetError), ("empty.jsonl", DatasetError), ("chat.jsonl", TemplateError)):
        with pytest.raises(error):
            train(recipe(data={"train": str(tmp_path / name), "eval": None}))
    with pytest.raises(RecipeError, match="no linear layer"):
        train(recipe(lora={"target_modules": ["nothing"]}))
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_the_steps_that_the_run_takes(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    for packing in (False, True):
        options = {"data": {"packing": packing}, "train": {"max_steps": -1, "num_train_epochs": 2}}
        wanted, tokenizer = resolve(recipe(**options, output_dir=str(tmp_path / str(packing))))
        plan = planned(wanted, prepare_data(wanted, tokenizer))
        assert plan["steps"] == train(wanted).steps
        assert plan["recipe"] == wanted.as_dict()


def test_a_pipe_hears_of_evaluations_and_nothing_else(recipe: Callable[..., Recipe]) -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    train(recipe(), console=console)
    lines = console.file.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("step")] == ["step 0/8", "step 4/8", "step 8/8"]
    assert lines[0].endswith("format prompt-completion; 24 of 24 rows used")


def test_a_terminal_shows_a_bar_with_losses_and_time_left(recipe: Callable[..., Recipe]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    result = train(recipe(), console=console)
    last = [line for line in console.file.getvalue().splitlines() if "training" in line][-1]
    for said in ("8/8", f"held-out {result.loss_after:.3f}", "left 0:00:00"):
        assert said in last


@pytest.mark.fixtures
@pytest.mark.slow
def test_a_real_model_learns_a_foreign_domain(fixtures_dir: Path, tmp_path: Path) -> None:
    """The reference loop (bitsandbytes + PEFT, 100 steps) brings the same text from 5.92 to 3.87; 30 steps get half of the way."""
    values = {
        "model": str(fixtures_dir / "models/stories3M"),
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0},
        "data": {"train": str(fixtures_dir / "text/tinyshakespeare/input.txt"), "eval": 0.01, "max_length": 256},
        "train": {"max_steps": 30, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3,
                  "eval_strategy": "no", "max_grad_norm": 1.0},
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    from quatro.train.recipe import recipe_of

    result = train(recipe_of(values))
    assert result.loss_before == pytest.approx(5.9, abs=0.2)
    assert result.loss_after < 4.7
