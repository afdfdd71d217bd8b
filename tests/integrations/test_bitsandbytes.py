"""Checkpoints that cross between quatro and bitsandbytes, by the real library."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import quatro
from quatro.format.dynamic_map import signed_dynamic_map
from quatro.format.errors import CheckpointError
from quatro.integrations.loading import load
from quatro.nn import Linear4bit
from tests.integrations.conftest import IDS

KINDS = [("nf4", True, 64), ("nf4", False, 64), ("fp4", True, 64), ("fp4", False, 64)]
"""bitsandbytes' own quantization has no other block size in its config; other sizes are written by quatro."""
CLOSE, ROUNDED = 1e-5, 2e-2
"""Of logits: both multiply in float32, in other orders; two layers of weights rounded to 2^-9 of themselves."""


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def source(request, tiny_with_tokenizer, tmp_path_factory) -> Path:
    """The tiny Llama as it is, and as a checkpoint of float32."""
    if request.param == "bfloat16":
        return tiny_with_tokenizer
    directory = tmp_path_factory.mktemp("float32") / "model"
    AutoModelForCausalLM.from_pretrained(tiny_with_tokenizer, dtype=torch.float32).save_pretrained(directory)
    return with_tokenizer(directory, tiny_with_tokenizer)


def agree(ours: torch.nn.Module, directory: Path) -> bool:
    """Where the layout says that weights were bfloat16, bitsandbytes rounds each to that after scaling it; quatro does not."""
    found, expected = logits(ours), logits(theirs(directory, dtype=torch.float32))
    close = CLOSE if ours.config.dtype == torch.float32 else ROUNDED
    return float((found - expected).norm()) <= close * float(expected.norm())


MAP = torch.tensor(signed_dynamic_map())
NOTHING = 1e-4
"""Of a group's largest distance from the mean: below, steps of the map are finer than what the mean's last bits move."""


def theirs(directory: Path, quant_type: str = "nf4", double: bool = True, storage: str = "uint8", dtype="auto"):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double,
                                bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_storage=storage)  # fmt: skip
    already = "quantization_config" in json.loads((directory / "config.json").read_text())
    options = {} if already else {"quantization_config": config}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, device_map={"": "cpu"}, **options)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype = torch.float32
            module.support_avx512bf16_for_cpu = False  # its bfloat16 kernel is another precision, and packs the weights anew
    return model.eval()


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.glob("*.safetensors"))}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def with_tokenizer(directory: Path, source: Path) -> Path:
    for file in source.glob("tokenizer*"):
        shutil.copy(file, directory)
    return directory


@pytest.mark.parametrize(("quant_type", "double", "block_size"), [*KINDS, ("nf4", True, 128), ("fp4", False, 32)])
def test_what_quatro_saves_bitsandbytes_reads_and_saves_again_to_the_byte(source, tmp_path, quant_type, double, block_size):
    model, tokenizer = load(source, quant_type=quant_type, double_quant=double, block_size=block_size, precision="exact")
    quatro.save(model, tmp_path / "ours", tokenizer)
    if block_size <= 64:  # where a row holds no whole block, bitsandbytes' dequantization on AVX-512 is wrong
        assert agree(model, tmp_path / "ours")
    theirs(tmp_path / "ours").save_pretrained(tmp_path / "again", save_original_format=False)  # it cannot undo its own
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "ours")


@pytest.mark.parametrize(("quant_type", "double", "block_size"), KINDS)
def test_what_bitsandbytes_saves_quatro_reads_and_saves_again_to_the_byte(source, tmp_path, quant_type, double, block_size):
    theirs(source, quant_type, double).save_pretrained(tmp_path / "theirs")
    model, _ = load(with_tokenizer(tmp_path / "theirs", source), precision="exact")
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear4bit)
    assert (layer.spec.quant_type, layer.spec.double_quant, layer.spec.block_size) == (quant_type, double, block_size)
    assert agree(model, tmp_path / "theirs")
    quatro.save(model, tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "theirs")


def test_codes_in_bfloat16_storage_are_the_same_codes(source, tmp_path):
    theirs(source, storage="bfloat16").save_pretrained(tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert stored.dtype == torch.bfloat16, "the case that this test is about"
    model, _ = load(with_tokenizer(tmp_path / "theirs", source), precision="exact")
    assert agree(model, tmp_path / "theirs")


def test_codes_and_scales_are_those_that_bitsandbytes_computes(source, tmp_path):
    """Its mean of the scales depends on its threads, so that a nested code may be the next one, or any other that stands for nothing."""
    theirs(source).save_pretrained(tmp_path / "theirs")
    quatro.save(load(source)[0], tmp_path / "ours")
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name.endswith(".absmax"):
            apart = (found[name].int() - tensor.int()).abs()
            nothing = (MAP[found[name].int()].abs() < NOTHING) & (MAP[tensor.int()].abs() < NOTHING)
            assert bool(((apart <= 1) | nothing).all())
        elif "nested" not in name and "quant_state" not in name:
            assert torch.equal(found[name], tensor), name


def test_what_the_layout_cannot_hold_is_saved_as_quatros_own(tiny_with_tokenizer, tmp_path):
    model, tokenizer = load(tiny_with_tokenizer, quant_type="int4")
    quatro.save(model, tmp_path / "own", tokenizer)
    assert json.loads((tmp_path / "own" / "config.json").read_text())["quantization_config"]["quant_method"] == "quatro"
    assert torch.equal(logits(load(tmp_path / "own")[0]), logits(model))


@pytest.fixture
def saved(tiny_with_tokenizer, tmp_path) -> Path:
    model, tokenizer = load(tiny_with_tokenizer)
    quatro.save(model, tmp_path / "saved", tokenizer)
    return tmp_path / "saved"


UP = "model.layers.0.mlp.up_proj.weight"
STATE = f"{UP}.quant_state.bitsandbytes__nf4"


def rewritten(directory: Path, change) -> Path:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    with safe_open(file, "pt") as opened:
        save_file(tensors, file, opened.metadata())
    return directory


def said(tensors, **changes) -> None:
    state = json.loads(bytes(tensors[STATE].tolist())) | changes
    tensors[STATE] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "letter"),
    [
        (lambda t: t.pop(f"{UP}.absmax"), r"up_proj\.weight\.absmax is missing"),
        (lambda t: t.update({f"{UP}.quant_map": t[f"{UP}.quant_map"] * 2}), "quant_map of model.layers.0.mlp.up_proj"),
        (lambda t: t.update({STATE: torch.tensor([1, 2, 3], dtype=torch.uint8)}), "not readable JSON"),
        (lambda t: said(t, blocksize=48), "48"),
        (lambda t: said(t, blocksize=128), "all stored alike"),
        (lambda t: said(t, shape=[128, 63]), "even number"),
        (lambda t: said(t, shape=[4096, 4096]), "elements where its quant_state needs"),
        (lambda t: said(t, nested_blocksize=64), "groups of 256"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused_by_the_layers_name(saved, change, letter):
    with pytest.raises(CheckpointError, match=letter) as caught:
        load(rewritten(saved, change))
    assert "\n" not in str(caught.value)


def test_eight_bits_are_refused_by_name(saved):
    settings = json.loads((saved / "config.json").read_text())
    settings["quantization_config"] |= {"load_in_4bit": False, "load_in_8bit": True}
    (saved / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="8 bits"):
        load(saved)
