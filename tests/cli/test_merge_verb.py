"""quatro merge."""

import json

import torch


def test_the_merged_directory_answers_as_the_base_with_its_adapter_and_needs_no_quatro(run, model_dir, adapter_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    from quatro.integrations.loading import load

    found = run("merge", model_dir, tmp_path / "out", "--adapter", adapter_dir, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["onto"] == "dequantized"
    assert "quatro" not in (tmp_path / "out" / "config.json").read_text()
    ids = torch.arange(6, 40)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
        expected = load(model_dir, adapter_dir, precision="exact")[0](ids).logits
    assert (merged - expected).norm() <= 2e-2 * expected.norm(), "bfloat16 or float32, whatever the base is in"


def test_bad_input_is_one_sentence_and_writes_nothing(run, model_dir, adapter_dir, wrong_adapter, tmp_path):
    out = tmp_path / "out"
    for arguments in (
        (model_dir, out, "--adapter", tmp_path / "nothing"),
        (model_dir, out, "--adapter", wrong_adapter),
        (model_dir, out, "--adapter", adapter_dir, "--onto", "air"),
        (model_dir, model_dir, "--adapter", adapter_dir),
        (tmp_path, out, "--adapter", adapter_dir),
    ):
        found = run("merge", *arguments)
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.stderr
        assert not out.exists()
