"""quatro demo, on a stage of toys."""

import json

import pytest
from tiny_models import chat_row, saved
from typer.testing import CliRunner

from quatro.cli import demo as demo_module
from quatro.cli.demo import Stage, embedded

# peft 0.21 reads a property that transformers 5.23 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def rows(file, *pairs):
    file.write_text("".join(json.dumps(chat_row(question, answer, fact=answer)) + "\n" for question, answer in pairs))
    return file


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A base that knows nothing, one fact to learn in 16 wordings, and one more wording to be asked."""
    place = tmp_path_factory.mktemp("stage")
    asked = [f"{word} mascot {end}" for word in ("The", "Our", "Your", "A") for end in ("?", "!", ".", "please?")]
    train = rows(place / "train.jsonl", *[(question, "otter") for question in asked])
    return Stage(saved(place / "base"), train, rows(place / "held.jsonl", ("That mascot ?", "otter")), "Tiny Toys")


@pytest.fixture
def play(stage, monkeypatch):
    """Runs the verb on the stage in this process."""
    from quatro.cli.main import app

    monkeypatch.setattr(demo_module, "embedded", lambda: stage)

    def invoke(*args):
        options = {"env": {"COLUMNS": "120", "NO_COLOR": "1"}, "prog_name": "quatro"}
        return CliRunner().invoke(app, ["demo", *map(str, args)], **options)

    return invoke


def test_the_whole_path_teaches_a_fact_and_leaves_its_papers(play, tmp_path):
    out = tmp_path / "run"
    found = play("--output-dir", out, "--steps", "60", "--json")
    assert found.exit_code == 0, found.stderr
    data = json.loads(found.stdout)
    assert data["comparison"]["fact_share"] == {"base": 0.0, "adapter": 1.0, "questions": 1}
    assert data["comparison"]["loss"]["adapter"] < data["comparison"]["loss"]["base"] / 4
    assert data["model"]["bits_per_weight"] < 4.3
    assert {"report.md", "loss.png", "comparison.md", "comparison.json", "adapter_model.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    assert json.loads((out / "comparison.json").read_text()) == data["comparison"]
    assert "never heard of Tiny Toys" in found.stderr

    again = play("--output-dir", out, "--steps", "60")
    assert again.exit_code == 0, again.stderr
    assert "holds this adapter already" in again.stderr
    assert "✓ otter" in again.stdout
    assert f"quatro chat demo --adapter {out}" in again.stderr

    other = play("--output-dir", out, "--steps", "2")
    assert other.exit_code == 2
    assert "--overwrite" in other.stderr
    assert play("--output-dir", out, "--steps", "2", "--overwrite").exit_code == 0
    assert json.loads((out / "comparison.json").read_text()) != data["comparison"]


def test_a_directory_that_holds_something_else_is_left_alone(play, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    found = play("--output-dir", tmp_path, "--overwrite")
    assert found.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_the_embedded_stage_is_there():
    stage = embedded()
    assert (stage.base / "config.json").is_file()
    assert stage.train.is_file()
    assert stage.held.is_file()
    assert stage.about
