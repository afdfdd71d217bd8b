"""Which base was an adapter made for?"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import quatro
from quatro.format.errors import AdapterError
from quatro.integrations.base import CARRIED, RECORD, base_of, check_base, fingerprint, read_record, write_record
from quatro.integrations.checkpoint import Checkpoint
from quatro.integrations.merging import merge_dense

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


def made(directory: Path, seed: int = 0, kind: type = LlamaForCausalLM, **sizes: int) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig if kind is LlamaForCausalLM else MistralConfig
    kind(config(**{**SIZES, **sizes})).save_pretrained(directory)
    return directory


def loaded(directory: Path, **options: object) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=quatro.QuatroConfig(**options))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("base") / "stories")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapter") / "mine"
    model = get_peft_model(loaded(base), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(directory)
    write_record(base_of(model.get_base_model()), directory)
    return directory


def test_the_base_it_was_made_for_is_taken_without_a_word(base, adapter, caplog):
    check_base(adapter, base_of(loaded(base)))
    assert not caplog.records


def test_a_copy_in_a_wider_dtype_has_the_same_fingerprint(base, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    half.float().save_pretrained(tmp_path / "float")
    marks = [fingerprint(Checkpoint(tmp_path / name)) for name in ("half", "float")]
    assert marks[0] == marks[1] != fingerprint(Checkpoint(base))


def test_one_changed_matrix_is_another_fingerprint(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    model.save_pretrained(tmp_path)
    assert fingerprint(Checkpoint(tmp_path)) != fingerprint(Checkpoint(base))


@pytest.mark.parametrize(
    "other", [{"num_hidden_layers": 3}, {"kind": MistralForCausalLM}], ids=["more layers", "another architecture"]
)
def test_another_shape_or_architecture_is_refused_with_both_names(adapter, tmp_path, other):
    model = loaded(made(tmp_path / "wanderer", **other))
    with pytest.raises(AdapterError, match=r"was made for stories \(llama.*this base is wanderer"):
        check_base(adapter, base_of(model), force=True)


def test_other_weights_are_refused_unless_forced(adapter, tmp_path, caplog):
    model = loaded(made(tmp_path / "twin", seed=1))
    with pytest.raises(AdapterError, match="was made for other weights"):
        check_base(adapter, base_of(model))
    check_base(adapter, base_of(model), force=True)
    assert "was made for other weights" in caplog.text


def test_another_quantization_of_the_same_weights_is_named_in_a_warning(base, adapter, caplog):
    check_base(adapter, base_of(loaded(base, quant_type="fp4", double_quant=False)))
    assert "in nf4, blocks of 64 with double quantization; here the base is in fp4, blocks of 64:" in caplog.text


@pytest.mark.parametrize("options", [{}, {"quant_type": "int4"}], ids=["bitsandbytes' layout", "quatro's layout"])
def test_a_saved_4bit_base_carries_what_it_was_made_from(base, tmp_path, options):
    quatro.save(loaded(base, **options), tmp_path / "small")
    mark = fingerprint(Checkpoint(base))
    assert json.loads((tmp_path / "small/config.json").read_text())[CARRIED] == mark
    assert base_of(AutoModelForCausalLM.from_pretrained(tmp_path / "small")).source == mark if options else True
    quatro.save(
        AutoModelForCausalLM.from_pretrained(base, quantization_config=quatro.QuatroConfig(**options)), tmp_path / "again"
    )
    assert json.loads((tmp_path / "again/config.json").read_text())[CARRIED] == mark


def test_a_4bit_base_without_a_trace_of_its_source_is_said_to_be_unknown(base, adapter, tmp_path, caplog):
    quatro.save(loaded(base, quant_type="int4"), tmp_path / "small")
    file = tmp_path / "small/config.json"
    settings = json.loads(file.read_text())
    del settings[CARRIED]
    file.write_text(json.dumps(settings))
    check_base(adapter, base_of(AutoModelForCausalLM.from_pretrained(tmp_path / "small")))
    assert "nobody can say" in caplog.text


def test_an_adapter_of_others_is_not_questioned(base, adapter, tmp_path, caplog):
    shutil.copytree(adapter, tmp_path / "theirs")
    (tmp_path / "theirs" / RECORD).unlink()
    caplog.set_level(logging.WARNING)
    check_base(tmp_path / "theirs", base_of(loaded(base)))
    assert not caplog.records


BROKEN: dict[str, Callable[[str], str]] = {
    "no JSON": lambda text: text[:-9],
    "a list": lambda text: "[]",
    "a key too many": lambda text: text.replace("{", '{"more": 1,', 1),
    "a key too few": lambda text: text.replace('"source"', '"sauce"'),
    "shapes that are a number": lambda text: json.dumps(json.loads(text) | {"shapes": 3}),
    "a fingerprint that is a number": lambda text: json.dumps(json.loads(text) | {"source": 3}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_record_that_is_not_whole_is_refused(adapter, tmp_path, how):
    shutil.copytree(adapter, tmp_path / "broken")
    file = tmp_path / "broken" / RECORD
    file.write_text(BROKEN[how](file.read_text()))
    with pytest.raises(AdapterError, match="does not say which base"):
        read_record(tmp_path / "broken")


def test_a_merge_takes_the_quantization_that_the_adapter_was_trained_on(base, tmp_path):
    model = loaded(base, quant_type="fp4", double_quant=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    write_record(base_of(adapted.get_base_model()), tmp_path / "adapter")
    merge_dense(base, tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(
            merged(ids).logits, loaded(base, quant_type="fp4", double_quant=False, precision="exact")(ids).logits, atol=1e-5
        )
    assert CARRIED not in json.loads((tmp_path / "merged/config.json").read_text())


def test_a_merge_into_other_weights_is_refused_unless_forced(adapter, tmp_path):
    other = made(tmp_path / "twin", seed=1)
    with pytest.raises(AdapterError, match="was made for other weights"):
        merge_dense(other, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_dense(other, adapter, tmp_path / "merged", force=True)
