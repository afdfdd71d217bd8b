from collections.abc import Callable
from pathlib import Path

import pytest

from quatro.format.errors import RecipeError
from quatro.train.directory import LOG, RECIPE, REPORT, WEIGHTS, RunDirectory, last_checkpoint, open_directory
from quatro.train.recipe import Recipe


def _checkpoint(run: Path, step: int, state: str = "{}") -> Path:
    path = run / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / WEIGHTS).write_bytes(b"weights")
    (path / LOG).write_text(state)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def _finish(run: Path) -> None:
    (run / WEIGHTS).write_bytes(b"weights")
    (run / REPORT).write_text("done")


def test_a_new_or_empty_directory_is_begun(recipe: Callable[..., Recipe], run: Path) -> None:
    assert open_directory(recipe()) == RunDirectory(run)
    assert not run.exists(), "looking changes nothing"
    run.mkdir()
    assert open_directory(recipe()) == RunDirectory(run)


def test_the_same_recipe_goes_on_from_its_last_whole_checkpoint(recipe: Callable[..., Recipe], run: Path) -> None:
    RunDirectory(run).begin(recipe())
    assert open_directory(recipe()).checkpoint is None, "nothing to lose yet"
    _checkpoint(run, 9)
    _checkpoint(run, 10)
    torn = _checkpoint(run, 20, '{"global_step": 2')
    assert open_directory(recipe()) == RunDirectory(run, run / "checkpoint-10")
    open_directory(recipe()).begin(recipe())
    assert not torn.exists()
    assert last_checkpoint(run) == run / "checkpoint-10"


def test_another_recipe_is_refused_and_the_difference_named(recipe: Callable[..., Recipe], run: Path) -> None:
    RunDirectory(run).begin(recipe())
    with pytest.raises(
        RecipeError, match=r"another recipe \(lora.r: 4 there, 8 here; train.learning_rate: 0.005 there, 0.1 here\)"
    ):
        open_directory(recipe(lora={"r": 8, "lora_alpha": 8, "lora_dropout": 0.1}, train={"learning_rate": 0.1}))


def test_a_finished_run_is_refused_also_to_resume(recipe: Callable[..., Recipe], run: Path) -> None:
    RunDirectory(run).begin(recipe())
    _checkpoint(run, 8)
    _finish(run)
    for resume in (False, True):
        with pytest.raises(RecipeError, match="holds this run, finished; say --overwrite"):
            open_directory(recipe(), resume=resume)


def test_overwriting_removes_the_run_and_nothing_else_and_only_when_it_begins(recipe: Callable[..., Recipe], run: Path) -> None:
    RunDirectory(run).begin(recipe())
    _checkpoint(run, 8)
    _finish(run)
    (run / "notes.txt").write_text("mine")
    (run / "checkpoint-best").mkdir()
    directory = open_directory(recipe(train={"learning_rate": 0.1}), overwrite=True)
    assert (run / REPORT).exists()
    directory.begin(recipe())
    assert {file.name for file in run.iterdir()} == {RECIPE, "notes.txt", "checkpoint-best"}


def test_a_directory_of_someone_else_is_never_touched(recipe: Callable[..., Recipe], run: Path) -> None:
    run.mkdir()
    (run / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RecipeError, match="is not empty and holds no run of quatro"):
            open_directory(recipe(), overwrite=overwrite)


def test_a_file_is_no_directory(recipe: Callable[..., Recipe], run: Path) -> None:
    run.write_text("x")
    with pytest.raises(RecipeError, match="is a file; name a directory"):
        open_directory(recipe())


def test_resuming_needs_something_to_resume(recipe: Callable[..., Recipe], run: Path) -> None:
    with pytest.raises(RecipeError, match="--resume: .* holds no checkpoint to go on from"):
        open_directory(recipe(), resume=True)
    RunDirectory(run).begin(recipe())
    with pytest.raises(RecipeError, match="holds no checkpoint"):
        open_directory(recipe(), resume=True)
