import json
import shutil
import subprocess
import sys

import pytest
import torch

import quatro
from quatro.format.errors import CheckpointError, MachineError
from quatro.integrations.checkpoint import Checkpoint
from quatro.integrations.loading import load
from quatro.integrations.summary import summarize
from quatro.nn import Linear4bit
from tests.integrations.conftest import IDS


def changed(source, target, **config):
    shutil.copytree(source, target)
    settings = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(settings))
    return target


def test_load_returns_a_4_bit_model_and_its_tokenizer(tiny_with_tokenizer):
    model, tokenizer = load(tiny_with_tokenizer, quant_type="fp4", block_size=32, double_quant=False)
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear4bit)
    assert (layer.spec.quant_type, layer.spec.block_size, layer.spec.double_quant) == ("fp4", 32, False)
    assert not model.training
    assert len(tokenizer("abc")["input_ids"]) == 3


def test_save_and_load_give_the_same_logits_to_the_bit(tiny_with_tokenizer, tmp_path):
    model, tokenizer = load(tiny_with_tokenizer)
    quatro.save(model, tmp_path / "saved", tokenizer)
    again, _ = load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, again(IDS).logits)
    assert summarize(again).bits_per_weight == summarize(model).bits_per_weight
    assert (tmp_path / "saved" / "tokenizer.json").is_file()


def test_saving_a_model_that_is_not_quantized_is_refused(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    with pytest.raises(CheckpointError, match="not a 4-bit model"):
        quatro.save(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_saving_into_a_directory_in_use_is_refused(tiny_with_tokenizer, tmp_path):
    model, _ = load(tiny_with_tokenizer)
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        quatro.save(model, tmp_path)
    assert (tmp_path / "keep").read_text() == "mine"


FULL_DISK = """
import resource, signal, sys
import quatro
from quatro.format.errors import MachineError
from quatro.integrations.checkpoint import Checkpoint
from quatro.integrations.loading import load
model, tokenizer = load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    quatro.save(model, sys.argv[2], tokenizer)
except MachineError as error:
    print(error)
"""


def test_a_full_disk_while_saving_leaves_nothing_half_written(tiny_with_tokenizer, tmp_path):
    arguments = [sys.executable, "-c", FULL_DISK, str(tiny_with_tokenizer), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert "could not write" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_a_path_that_does_not_exist_is_refused(name):
    with pytest.raises(CheckpointError, match="does not exist"):
        load(name)


def test_a_file_in_place_of_a_directory_is_refused(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError, match="is a file; name the directory"):
        load(tmp_path / "model.gguf")


def test_a_directory_without_config_without_weights_or_with_an_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="pass --adapter"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="but no weights"):
        load(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="no model_type"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load(tmp_path)


def test_a_model_without_tokenizer_is_refused_by_one_line(tiny_llama):
    with pytest.raises(CheckpointError, match="could not load the tokenizer from") as caught:
        load(tiny_llama)
    assert "\n" not in str(caught.value)


def test_broken_weights_are_refused_by_one_line(tiny_with_tokenizer, tmp_path):
    broken = changed(tiny_with_tokenizer, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut short or corrupted") as caught:
        load(broken)
    assert "\n" not in str(caught.value)


def test_another_librarys_quantization_is_refused_by_name(tiny_with_tokenizer, tmp_path):
    foreign = changed(tiny_with_tokenizer, tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match="quant_method 'gptq'"):
        load(foreign)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny_with_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    larger = changed(tiny_with_tokenizer, tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(larger)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(larger)
    with pytest.raises(CheckpointError, match="98 tokens but the embedding only 96 rows"):
        load(larger)


def test_a_hub_id_without_a_network_is_refused_by_one_line():
    with pytest.raises(MachineError, match="hub cannot be reached") as caught:
        load("someone/some-model-that-is-not-cached")
    assert "\n" not in str(caught.value)


def state(model):
    return dict(model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_streaming_gives_what_transformers_own_loading_gives(tiny_with_tokenizer, tmp_path, dtype, shard):
    from transformers import AutoModelForCausalLM

    source = changed(tiny_with_tokenizer, tmp_path / "source")
    (source / "model.safetensors").unlink()
    dense = AutoModelForCausalLM.from_pretrained(tiny_with_tokenizer, dtype=dtype)
    dense.save_pretrained(source, max_shard_size=shard)
    assert (shard == "1GB") == (source / "model.safetensors").is_file()
    seen = []
    model, _ = load(source, progress=lambda read, all: seen.append((read, all)))
    expected = AutoModelForCausalLM.from_pretrained(source, quantization_config=quatro.QuatroConfig())
    assert state(model).keys() == state(expected).keys()
    for name, tensor in state(expected).items():
        assert (state(model)[name].dtype, True) == (tensor.dtype, torch.equal(state(model)[name], tensor)), name
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == Checkpoint(source).nbytes, "every byte was read, once"


def without(directory, name):
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    tensors.pop(name)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_tied_weights_stay_one_tensor(tiny_with_tokenizer, tmp_path):
    tied = without(changed(tiny_with_tokenizer, tmp_path / "tied", tie_word_embeddings=True), "lm_head.weight")
    model, _ = load(tied)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_checkpoint_without_one_of_its_tensors_is_refused_by_name(tiny_with_tokenizer, tmp_path):
    broken = without(changed(tiny_with_tokenizer, tmp_path / "broken"), "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(CheckpointError, match=r"does not hold model\.layers\.1\.mlp\.up_proj"):
        load(broken)


def pickled(source, target, weights):
    directory = changed(source, target)
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    return directory


def test_pickled_weights_are_read(tiny_with_tokenizer, tmp_path):
    from safetensors.torch import load_file

    weights = load_file(tiny_with_tokenizer / "model.safetensors")
    model, _ = load(pickled(tiny_with_tokenizer, tmp_path / "bin", weights))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, load(tiny_with_tokenizer)[0](IDS).logits)


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_runs_code_is_refused_and_runs_none(tiny_with_tokenizer, tmp_path, capfd):
    with pytest.raises(CheckpointError, match="hold more than tensors") as caught:
        load(pickled(tiny_with_tokenizer, tmp_path / "bin", {"model.norm.weight": Trap()}))
    assert "\n" not in str(caught.value)
    assert "executed" not in "".join(capfd.readouterr())


def test_remote_code_is_never_run(tiny_with_tokenizer, tmp_path):
    remote = changed(tiny_with_tokenizer, tmp_path / "remote", model_type="own", auto_map={"AutoConfig": "own.Config"})
    (remote / "own.py").write_text("print('executed')\nclass Config: pass\n")
    with pytest.raises(CheckpointError, match="could not load the"):
        load(remote)


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "awq"])
def test_other_formats_of_few_bits_are_refused_by_name(tiny_with_tokenizer, tmp_path, method):
    foreign = changed(tiny_with_tokenizer, tmp_path / method, quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError, match=f"quant_method '{method}'"):
        load(foreign)
