"""quatro quantize."""

import json

import pytest
import torch


def test_the_directory_it_writes_loads_to_the_same_logits(run, model_dir, tmp_path):
    from quatro.integrations.loading import load

    out = tmp_path / "out"
    found = run("quantize", model_dir, out, "--json")
    assert found.exit_code == 0, found.stderr
    ids = torch.arange(6, 40)[None]
    with torch.no_grad():
        assert torch.equal(load(out)[0](ids).logits, load(model_dir)[0](ids).logits)


def test_what_it_says_is_counted_from_the_model(run, model_dir, tmp_path):
    from tiny_models import byte_tokenizer, random_llama

    model = random_llama(byte_tokenizer())
    linear = sum(
        m.weight.numel() for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name
    )
    data = json.loads(run("quantize", model_dir, tmp_path / "out", "--json").stdout)
    assert data["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert data["parameters_4bit"] == linear
    assert 4.1 < data["bits_per_weight"] < 4.3
    assert data["dense"]["model.embed_tokens"] == model.model.embed_tokens.weight.numel()
    assert data["bytes_on_disk"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_the_table_tells_what_became_of_the_model(run, model_dir, tmp_path):
    text = run("quantize", model_dir, tmp_path / "out", "--no-double-quant", "--block-size", "128").stdout
    assert "in 4 bits" in text
    assert "stays dense" in text
    assert "model.layers.*.input_layernorm" in text
    assert "4.250 bits" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--quant-type", "nf5"], "nf4"),
        (["--block-size", "48"], "block_size 48 is not allowed"),
    ],
)
def test_an_impossible_choice_is_refused(run, model_dir, tmp_path, options, sentence):
    found = run("quantize", model_dir, tmp_path / "out", *options)
    assert found.exit_code == 2
    assert sentence in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_only_replaced_when_asked(run, model_dir, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    found = run("quantize", model_dir, out)
    assert (found.exit_code, (out / "diary.txt").read_text()) == (2, "dear diary")
    assert "--overwrite" in found.stderr
    assert run("quantize", model_dir, out, "--overwrite").exit_code == 0
    assert not (out / "diary.txt").exists()
    assert (out / "config.json").exists()


def test_the_model_itself_and_what_holds_it_are_never_the_target(run, model_dir):
    for target in (model_dir, model_dir.parent):
        found = run("quantize", model_dir, target, "--overwrite")
        assert found.exit_code == 2
        assert "OUT" in found.stderr
    assert (model_dir / "model.safetensors").exists()


def test_a_file_is_no_target_and_a_4_bit_model_no_source(run, model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in run("quantize", model_dir, tmp_path / "file").stderr
    assert run("quantize", model_dir, tmp_path / "once").exit_code == 0
    twice = run("quantize", tmp_path / "once", tmp_path / "twice")
    assert twice.exit_code == 2
    assert "in 4 bits already" in twice.stderr
    assert not (tmp_path / "twice").exists()


def test_a_full_disk_leaves_nothing_behind_and_is_the_machines_fault(run, model_dir, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def full(self, directory, **others):
        (directory / "half.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    found = run("quantize", model_dir, tmp_path / "out")
    assert found.exit_code == 1
    assert "No space left" in found.stderr
    assert list(tmp_path.iterdir()) == []
