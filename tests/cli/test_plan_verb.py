"""`quatro plan` answers without torch, in tables, JSON or a picture, and refuses in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quatro.cli.main import app

LIGHT = """
import sys
from quatro.cli.main import app
code = app(["plan", "llama-7b", "--fits", "12GiB", "--assume", "paper"], standalone_mode=False)
heavy = {"torch", "numpy", "transformers", "peft", "huggingface_hub"} & sys.modules.keys()
sys.exit(f"imported {sorted(heavy)}" if heavy else code)
"""


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    app(["plan", *arguments], standalone_mode=False)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        app(["plan", *arguments])
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


def test_it_answers_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "QLoRA" in done.stdout


def test_three_methods_stand_side_by_side_with_their_totals(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "llama-7b")
    assert all(word in said for word in ("full, 16 bits", "LoRA, 16-bit base", "QLoRA, 4 bits", "total", "16,384", "262,144"))


def test_one_method_shows_its_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(
        capsys, "gpt-j-6b", "--method", "qlora", "--r", "8", "--targets", "q_proj,v_proj", "--optim", "paged_adamw_8bit"
    )
    assert "3,670,016 trained numbers" in said


def test_a_plan_for_a_cpu_says_what_the_c_library_adds(capsys: pytest.CaptureFixture[str]) -> None:
    app(["plan", "llama-7b", "--device", "cpu"], standalone_mode=False)
    assert "MALLOC_MMAP_THRESHOLD_" in capsys.readouterr().err


def test_json_holds_plain_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "llama-7b", "--json", "--fits", "12GiB", "--assume", "paper"))
    assert found["parameters"] == 6_738_415_616
    assert found["budget_bytes"] == 12 * 2**30
    assert found["fits"] == {"full": False, "lora": False, "qlora": True}
    for one in found["methods"].values():
        assert one["total_bytes"] == sum(part["bytes"] for part in one["parts"].values())
    assert found["paper"]["total_bytes"] == pytest.approx(6.9e9, rel=0.1)
    assert found["ways"][0]["fits"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_drawn(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "llama-7b", "--figure", str(tmp_path / f"plan.{kind}"), "--fits", "12GiB")
    assert (tmp_path / f"plan.{kind}").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["llama-7b", "--fits", "12 gigs"], "--fits: size '12 gigs' cannot be read"),
        (["llama-7b", "--budget", "much"], "size 'much' cannot be read"),
        (["llama-7c"], "did you mean 'llama-7b'"),
        (["llama-7b", "--optim", "adamw"], "unknown optim 'adamw'"),
        (["llama-7b", "--method", "qlra"], "did you mean 'qlora'"),
        (["llama-7b", "--assume", "papr"], "did you mean 'paper'"),
        (["llama-7b", "--targets", "q_prj"], "did you mean 'q_proj'"),
        (["llama-7b", "--figure", "plan.xyz"], "must end in one of .png"),
        (["gpt-j-6b", "--assume", "paper"], "leave it out"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *arguments)


def test_a_configuration_without_a_needed_field_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    assert "has no num_attention_heads" in refused(capsys, str(tmp_path))
