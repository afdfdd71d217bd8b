"""PEFT's adapters with fused products: the same numbers, the same files, the same behavior as PEFT's own layers."""

import copy
import json
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from torch import nn

from quatro.format.errors import AdapterError
from quatro.format.spec import QuantSpec
from quatro.integrations import fused_lora
from quatro.integrations.adapters import attach
from quatro.integrations.fused_lora import FusedLoraLinear, fuse_adapters
from quatro.nn import Linear4bit
from tests.integrations.conftest import IDS
from tests.integrations.test_peft import adapted, scramble

SINGLE = 2**-24
HALF = {torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float32: 0.0}


class Block(nn.Module):
    """Two 4-bit layers, one of them under two names, and a dense one."""

    def __init__(self):
        super().__init__()
        self.first = Linear4bit.from_linear(nn.Linear(128, 172), QuantSpec())
        self.second = Linear4bit.from_linear(nn.Linear(172, 128, bias=False), QuantSpec())
        self.again = self.second
        self.dense = nn.Linear(128, 64)

    def forward(self, x, **kwargs):
        return self.dense(self.second(self.first(x, **kwargs), **kwargs))


def exact(model):
    """float32 throughout: integer products round activations, which can make a jump of a difference in the last place."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.precision = "exact"
    return model


def pair(**options):
    """The same adapted block twice: PEFT's own, and fused."""
    torch.manual_seed(3)
    settings = {"r": 8, "lora_alpha": 12, "target_modules": ["first", "second", "dense"], **options}
    plain = get_peft_model(Block(), LoraConfig(**settings))
    scramble(plain, "default", 3)
    fused = copy.deepcopy(plain)
    assert fuse_adapters(fused) == len({"first", "second"} & set(settings["target_modules"]))
    return plain, fused


def first(model):
    return model.base_model.model.first


def run(layer, x, grad, seed=5):
    """y and the gradients to x and to the trained parameters."""
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    y = layer(x)
    return y.detach(), *torch.autograd.grad(y, (x, *trained), grad.to(y.dtype))


@pytest.fixture
def steps(monkeypatch):
    """How often the fused step was taken."""
    taken, real = [], fused_lora.lora_linear
    monkeypatch.setattr(fused_lora, "lora_linear", lambda *args: taken.append(1) or real(*args))
    return taken


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("adapter_dtype", HALF)
@pytest.mark.parametrize("dtype", HALF)
def test_a_layer_gives_pefts_numbers(dtype, adapter_dtype, dropout, steps):
    plain, fused = (first(model) for model in pair(lora_dropout=dropout))
    for layer in (plain, fused):
        layer.lora_A.to(adapter_dtype)
        layer.lora_B.to(adapter_dtype)
    x, grad = torch.randn(2, 70, 128).to(dtype), torch.randn(2, 70, 172).to(dtype)
    # Both err as docs/numerics.md says ("The adapter's product"), and magnitudes exceed sums by about sqrt(n) at most.
    longest = 172
    bound = 2 * (16 * longest**0.5 * SINGLE + 3 * max(HALF[dtype], HALF[adapter_dtype])) * longest**0.5
    for mine, theirs in zip(run(fused, x, grad), run(plain, x, grad), strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine.double() - theirs.double()).norm() <= min(bound, 0.03) * theirs.double().norm()
        assert theirs.norm() > 0
    assert steps == [1]


def test_a_scaling_wrong_by_a_thousandth_is_seen():
    plain, fused = (first(model) for model in pair())
    fused.scaling = {"default": fused.scaling["default"] * 1.001}
    x, grad = torch.randn(70, 128), torch.randn(70, 172)
    for mine, theirs in zip(run(fused, x, grad), run(plain, x, grad), strict=True):
        assert (mine - theirs).norm() > 1e-4 * theirs.norm()


def test_fusing_copies_no_tensor_and_renames_none():
    torch.manual_seed(3)
    model = get_peft_model(Block(), LoraConfig(target_modules=["first", "second", "dense"]))
    before = {name: (id(tensor), tensor.requires_grad) for name, tensor in model.named_parameters()}
    keys, config = list(model.state_dict()), model.peft_config["default"].to_dict()
    assert fuse_adapters(model) == 2
    assert {name: (id(tensor), tensor.requires_grad) for name, tensor in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    assert model.peft_config["default"].to_dict() == config


def test_a_second_call_finds_nothing_left_and_dense_layers_stay_pefts():
    _, fused = pair()
    assert fuse_adapters(fused) == 0
    block = fused.base_model.model
    assert type(block.dense) is lora.Linear
    assert isinstance(block.first, FusedLoraLinear)


def test_a_layer_under_two_names_stays_one_layer():
    _, fused = pair()
    block = fused.base_model.model
    assert isinstance(block.second, FusedLoraLinear)
    assert isinstance(block.again, Linear4bit)
    plain = get_peft_model(Block(), LoraConfig(target_modules=["first"]))
    plain.base_model.model.again = plain.base_model.model.first
    assert fuse_adapters(plain) == 1
    assert plain.base_model.model.again is plain.base_model.model.first
    assert isinstance(plain.base_model.model.again, FusedLoraLinear)


def test_a_language_model_trains_as_with_pefts_layers(quantized):
    plain = adapted(exact(quantized))
    plain(IDS, labels=IDS).loss.backward()
    expected = {name: p.grad.clone() for name, p in plain.named_parameters() if p.requires_grad}
    loss = plain(IDS, labels=IDS).loss
    plain.zero_grad()
    assert fuse_adapters(plain) == 14
    mine = plain(IDS, labels=IDS).loss
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-6, atol=0)
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-9, name


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_with_dropout(quantized, use_reentrant):
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2, task_type="CAUSAL_LM")
    model = get_peft_model(quantized, config).train()
    scramble(model, "default", 1)
    fuse_adapters(model)

    def gradients():
        model.zero_grad()
        torch.manual_seed(5)
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    assert all(torch.equal(mine, other) for mine, other in zip(gradients(), expected, strict=True))


def hook_on_a(layer):
    layer.lora_A["default"].register_forward_hook(lambda module, args, output: output * 2)


def own_forward_of_the_base(layer):
    layer.base_layer.forward = lambda x: Linear4bit.forward(layer.base_layer, x) + 1


def another_dropout(layer):
    layer.lora_dropout["default"] = nn.AlphaDropout(0.5)


def whole_dropout(layer):
    layer.lora_dropout["default"] = nn.Dropout(1.0)


def scaling_as_a_tensor(layer):
    layer.scaling = {"default": torch.tensor(0.5)}


def a_bias_on_b(layer):
    layer.lora_B["default"].bias = nn.Parameter(torch.randn(172))


def factors_of_64_bits(layer):
    layer.lora_A.double()
    layer.lora_B.double()


def disabled(layer):
    layer.enable_adapters(False)


def said_to_be_merged(layer):
    layer.merged_adapters = ["default"]


def no_adapter_of_this_layer(layer):
    layer._active_adapter = ["elsewhere"]


OTHER_PATHS = [hook_on_a, own_forward_of_the_base, another_dropout, whole_dropout, scaling_as_a_tensor, a_bias_on_b,
               factors_of_64_bits, disabled, said_to_be_merged, no_adapter_of_this_layer]  # fmt: skip


@pytest.mark.parametrize("change", OTHER_PATHS, ids=lambda change: change.__name__)
def test_what_is_more_than_a_plain_product_is_pefts_own_forward(change, steps):
    plain, fused = (first(model) for model in pair())
    x, results = torch.randn(5, 128), []
    for layer in (plain, fused):
        torch.manual_seed(0)
        change(layer)
        torch.manual_seed(0)
        results.append(layer(x))
    assert torch.equal(*results)
    assert steps == []


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_and_biases_are_pefts_own_forward(options, steps):
    plain, fused = pair(target_modules=["first"], **options)
    x = torch.randn(5, 128)
    assert torch.equal(first(plain)(x), first(fused)(x))
    assert steps == []


def test_inputs_that_are_not_cast_take_pefts_path(steps):
    plain, fused = (first(model) for model in pair())
    for layer in (plain, fused):
        layer.cast_input_dtype_enabled = False
        with pytest.raises(RuntimeError, match="dtype"):
            layer(torch.randn(5, 128).bfloat16())
    assert steps == []


def test_dropout_rests_in_evaluation(steps):
    plain, fused = (first(model.eval()) for model in pair(lora_dropout=0.5))
    x = torch.randn(5, 128)
    torch.testing.assert_close(fused(x), plain(x))
    assert torch.equal(fused(x), fused(x))
    assert steps == [1, 1, 1]


@pytest.fixture
def two_adapters(quantized):
    """(PEFT's answers by name, the same model fused)."""
    model = adapted(exact(quantized))
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    scramble(model, "other", 7)
    model.eval()
    expected = answers(model)
    assert fuse_adapters(model) == 14
    return expected, model


@torch.no_grad()
def answers(model):
    logits = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        logits[name] = model(IDS).logits
    model.base_model.set_adapter(["default", "other"])
    logits["both"] = model(IDS).logits
    model.set_adapter("default")
    with model.disable_adapter():
        logits["base"] = model(IDS).logits
    logits["mixed"] = model(IDS, adapter_names=["other", "default"]).logits
    return logits


def test_several_adapters_answer_as_before(two_adapters):
    expected, model = two_adapters
    found = answers(model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(found["base"], expected["base"])
    assert torch.equal(found["both"], expected["both"])
    assert not torch.allclose(found["default"], found["other"])


def test_adapters_come_and_go_after_fusing(two_adapters, tmp_path):
    expected, model = two_adapters
    model.save_pretrained(tmp_path)
    model.delete_adapter("other")
    assert not [name for name in model.state_dict() if "other" in name]
    model.load_adapter(tmp_path / "other", "returned")
    model.set_adapter("returned")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IDS).logits, expected["other"], rtol=1e-4, atol=1e-5)
    model.add_weighted_adapter(["default", "returned"], [0.5, 0.5], "sum", combination_type="cat")
    model.set_adapter("sum")
    assert torch.isfinite(model(IDS).logits).all()


def test_an_adapter_is_hotswapped_in_place(two_adapters, tmp_path):
    expected, model = two_adapters
    model.delete_adapter("other")
    model.save_pretrained(tmp_path)
    scramble(model, "default", 9)
    with torch.no_grad():
        assert not torch.allclose(model(IDS).logits, expected["default"])
        hotswap_adapter(model, tmp_path, adapter_name="default")
        torch.testing.assert_close(model(IDS).logits, expected["default"], rtol=1e-4, atol=1e-5)


def test_saved_files_are_those_that_peft_writes(tmp_path):
    for model, name in zip(pair(), ("plain", "fused"), strict=True):
        model.save_pretrained(tmp_path / name)
    plain, fused = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "fused"))
    assert plain.keys() == fused.keys()
    assert all(torch.equal(fused[key], plain[key]) for key in plain)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("plain", "fused")]
    assert [set(config.pop("target_modules")) for config in configs] == [{"first", "second", "dense"}] * 2
    assert configs[0] == configs[1]


def test_plain_peft_reads_a_fused_adapter_in_a_fresh_process(quantized, tiny_llama, tmp_path, run_fresh):
    model = adapted(exact(quantized)).eval()
    fuse_adapters(model)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        torch.save(model(IDS).logits, tmp_path / "logits.pt")
    printed = run_fresh(
        "import quatro, torch\nfrom peft import PeftModel\nfrom peft.tuners import lora\n"
        "from transformers import AutoModelForCausalLM\n"
        f"base = AutoModelForCausalLM.from_pretrained(r'{tiny_llama}', quantization_config=quatro.QuatroConfig(precision='exact'))\n"
        f"model = PeftModel.from_pretrained(base, r'{tmp_path / 'adapter'}')\n"
        "logits = model(torch.arange(40).view(2, 20) % 96).logits\n"
        f"expected = torch.load(r'{tmp_path / 'logits.pt'}')\n"
        "plain = {type(module) for module in model.modules() if isinstance(module, lora.Linear)} == {lora.Linear}\n"
        "print(plain, torch.allclose(logits, expected, rtol=1e-4, atol=1e-5))"
    )
    assert printed.strip() == "True True"


def test_merging_in_place_is_refused_by_a_sentence_and_unloading_does_what_it_did(quantized):
    model = adapted(quantized)
    before = dict(model.base_model.model.named_modules())
    fuse_adapters(model)
    with pytest.raises(AdapterError, match="`quatro merge`"):
        model.merge_adapter()
    base = model.unload()
    assert not isinstance(base, PeftModel)
    assert sum(isinstance(module, Linear4bit) for module in base.modules()) == 14
    assert base.model.layers[0].self_attn.q_proj is before["model.layers.0.self_attn.q_proj.base_layer"]


def test_copies_and_pickles_are_fused_too(steps):
    _, fused = pair()
    x = torch.randn(3, 128)
    expected = fused(x)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(other(x), expected)
        assert first(other).lora_A["default"].weight.data_ptr() != first(fused).lora_A["default"].weight.data_ptr()
    assert len(steps) == 6


def test_a_layer_whose_forward_was_replaced_is_left_alone():
    model = get_peft_model(Block(), LoraConfig(target_modules=["first"]))
    first(model).forward = lambda x: x
    assert fuse_adapters(model) == 0


def test_a_fused_layer_compiles_as_one_graph_with_the_same_bits():
    _, fused = pair()
    layer, x, grad = first(fused), torch.randn(3, 128), torch.randn(3, 172)
    expected = run(layer, x, grad)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(mine, other) for mine, other in zip(run(compiled, x, grad), expected, strict=True))


def test_dropout_costs_backward_an_eighth_of_what_pefts_does():
    def kept(layer):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t):  # fmt: skip
            y = layer(x)
        given = [x, *layer.parameters(), *layer.buffers()]
        assert y.requires_grad
        return sum(sizes.values()) - sum(sizes.get(tensor.untyped_storage().data_ptr(), 0) for tensor in given)

    plain, fused = (first(model) for model in pair(lora_dropout=0.1))
    x = torch.randn(70, 128, requires_grad=True)
    assert kept(plain) == 70 * (8 * 4 + 128 * 8)
    assert kept(fused) == 70 * (8 * 4 + 128)


def test_attach_fuses_the_first_adapter_and_later_ones(quantized, tmp_path):
    base = copy.deepcopy(exact(quantized))
    peft = adapted(quantized).eval()
    peft.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = peft(IDS).logits
    again = attach(base, tmp_path)
    assert sum(isinstance(module, FusedLoraLinear) for module in again.modules()) == 14
    assert attach(again, tmp_path, "second", trainable=True) is again
    again.set_adapter("second")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(IDS).logits, expected, rtol=1e-4, atol=1e-5)
