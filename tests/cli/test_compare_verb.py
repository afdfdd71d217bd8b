"""quatro compare."""

import json

import pytest

# peft 0.21 reads a property that transformers 5.23 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

FAST = ("--max-new-tokens", "3")


def test_both_are_measured_and_answer_the_same_questions(run, model_dir, adapter_dir, held_file):
    found = run("compare", model_dir, "--adapter", adapter_dir, "--data", held_file, "--json", *FAST)
    assert found.exit_code == 0, found.stderr
    data = json.loads(found.stdout)
    assert data["loss"]["base"] != data["loss"]["adapter"]
    assert data["fact_share"]["questions"] == 3
    assert [row["question"] for row in data["rows"]] == ["What is alpha?", "What is beta?", "What is gamma?"]


def test_the_table_is_for_people(run, model_dir, adapter_dir, held_file):
    found = run("compare", model_dir, "--adapter", adapter_dir, "--data", held_file, *FAST)
    assert "held-out loss per answer token" in found.stdout
    assert "answers with the right fact, of 3" in found.stdout
    assert "What is beta?" in found.stdout


def test_prompts_alone_are_enough(run, model_dir, adapter_dir, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Who?\nWhen?\n")
    data = json.loads(run("compare", model_dir, "--adapter", adapter_dir, "--prompts", file, "--json", *FAST).stdout)
    assert [row["question"] for row in data["rows"]] == ["Who?", "When?"]
    assert data["loss"]["base"] is None


@pytest.mark.parametrize("suffix", [".md", ".json"])
def test_the_comparison_is_written_where_it_is_asked_for(run, model_dir, adapter_dir, held_file, tmp_path, suffix):
    file = tmp_path / f"found{suffix}"
    found = run("compare", model_dir, "--adapter", adapter_dir, "--data", held_file, "--output", file, *FAST)
    assert found.exit_code == 0, found.stderr
    text = file.read_text()
    assert "What is gamma?" in text
    if suffix == ".json":
        assert json.loads(text)["fact_share"]["questions"] == 3


def test_rows_that_cannot_be_used_are_named_on_stderr(run, model_dir, adapter_dir, held_file):
    held_file.write_text(held_file.read_text() + '{"messages": []}\n' * 5)
    found = run("compare", model_dir, "--adapter", adapter_dir, "--data", held_file, "--json", *FAST)
    assert found.exit_code == 0
    assert "left out, line 4: " in found.stderr
    assert "2 more rows" in found.stderr
    assert json.loads(found.stdout)["fact_share"]["questions"] == 3


def test_bad_input_is_one_sentence(run, model_dir, adapter_dir, wrong_adapter, held_file, tmp_path):
    empty, blank = tmp_path / "empty.jsonl", tmp_path / "blank.txt"
    empty.write_text("")
    blank.write_text("\n\n")
    base = ["compare", model_dir, "--adapter", adapter_dir]
    cases = [
        (base, "--data"),
        ([*base, "--data", tmp_path / "gone.jsonl"], "does not exist"),
        ([*base, "--data", empty], "empty"),
        ([*base, "--prompts", blank], "holds no prompt"),
        ([*base, "--prompts", tmp_path], "is a directory"),
        ([*base, "--data", held_file, "--output", "x.html"], ".json"),
        (["compare", model_dir, "--adapter", wrong_adapter, "--data", held_file], "another base"),
        (["compare", model_dir, "--adapter", tmp_path, "--data", held_file], "adapter_config.json"),
    ]
    for args, word in cases:
        found = run(*args)
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.stderr
        assert word in found.stderr
        assert found.stdout == ""
