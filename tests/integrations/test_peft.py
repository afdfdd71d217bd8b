import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from quatro.format.errors import AdapterError
from quatro.integrations.adapters import attach
from quatro.integrations.fused_lora import fuse_adapters
from quatro.nn import Linear4bit
from tests.integrations.conftest import IDS


def adapted(model, r=4, seed=0):
    torch.manual_seed(seed)
    peft = get_peft_model(model, LoraConfig(r=r, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    scramble(peft, "default", seed)
    return peft


def scramble(peft, name, seed):
    """Fresh adapters change nothing (B is 0); give this one something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if f"lora_B.{name}" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_all_linear_adapts_every_4_bit_layer_and_nothing_else(quantized):
    peft = adapted(quantized)
    layers = [module for module in peft.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]
    assert len(layers) == 14
    assert all(isinstance(layer.base_layer, Linear4bit) for layer in layers)
    assert {parameter.dtype for parameter in peft.parameters() if parameter.requires_grad} == {torch.float32}


@pytest.mark.parametrize(("precision", "bound"), [("exact", 1e-4), ("high", 1e-3)])
def test_gradients_reach_the_adapter_and_equal_those_of_the_dense_twin(quantized, precision, bound):
    for module in quantized.modules():
        if isinstance(module, Linear4bit):
            module.precision = precision
    peft = adapted(quantized)
    peft(IDS, labels=IDS).loss.backward()
    gradients = {name: p.grad.clone() for name, p in peft.named_parameters() if p.requires_grad}
    for module in peft.modules():
        if hasattr(module, "base_layer"):
            base = module.base_layer
            dense = torch.nn.Linear(base.in_features, base.out_features, bias=False)
            dense.weight = torch.nn.Parameter(base.dequantize(), requires_grad=False)
            module.base_layer = dense
    peft.zero_grad()
    peft(IDS, labels=IDS).loss.backward()
    for name, parameter in peft.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - gradients[name]).norm() <= bound * parameter.grad.norm() + 1e-9, name


def test_a_training_step_moves_the_adapter_and_not_one_bit_of_the_base(quantized):
    peft = adapted(quantized)
    before = {name: tensor.clone() for name, tensor in peft.state_dict().items() if "lora_" not in name}
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = peft(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in peft.state_dict().items() if name in before)


def test_several_adapters_serve_one_base_also_in_one_batch(quantized):
    peft = adapted(quantized)
    peft.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    scramble(peft, "other", 7)
    peft.eval()
    with torch.no_grad():
        alone = []
        for name in ("default", "other"):
            peft.set_adapter(name)
            alone.append(peft(IDS).logits)
        with peft.disable_adapter():
            base = peft(IDS).logits
        mixed = peft(IDS, adapter_names=["default", "other"]).logits
    assert not torch.allclose(alone[0], alone[1])
    assert not torch.allclose(alone[0], base)
    torch.testing.assert_close(mixed[0], alone[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1], alone[1][1], rtol=1e-4, atol=1e-5)


def test_a_saved_adapter_answers_the_same_in_a_fresh_process(quantized, tiny_llama, tmp_path, run_fresh):
    peft = adapted(quantized).eval()
    peft.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        torch.save(peft(IDS).logits, tmp_path / "logits.pt")
    printed = run_fresh(
        "import quatro, torch\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f"base = AutoModelForCausalLM.from_pretrained(r'{tiny_llama}', quantization_config=quatro.QuatroConfig())\n"
        f"model = PeftModel.from_pretrained(base, r'{tmp_path / 'adapter'}')\n"
        "logits = model(torch.arange(40).view(2, 20) % 96).logits\n"
        f"print(torch.equal(logits, torch.load(r'{tmp_path / 'logits.pt'}')))"
    )
    assert printed.strip() == "True"


def test_attach_puts_an_adapter_on_its_base(quantized, tmp_path):
    base = copy.deepcopy(quantized)
    peft = adapted(quantized).eval()
    fuse_adapters(peft)
    peft.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = peft(IDS).logits
        again = attach(base, tmp_path)
        assert isinstance(again, PeftModel)
        assert torch.equal(again.eval()(IDS).logits, expected)


def other_base(tmp_path, **changes):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    import quatro

    settings = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**settings | changes)).save_pretrained(tmp_path / "other")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "other", quantization_config=quatro.QuatroConfig())


def test_an_adapter_made_for_other_shapes_is_refused_with_both(quantized, tmp_path):
    adapted(quantized).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"made for another base: its .*down_proj has 172 inputs .* this base's has 128"):
        attach(other_base(tmp_path, intermediate_size=128), tmp_path / "adapter")


def test_an_adapter_for_layers_the_base_lacks_is_refused(quantized, tmp_path):
    adapted(quantized).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"layers\.1\..*, a layer this base does not have"):
        attach(other_base(tmp_path, num_hidden_layers=1), tmp_path / "adapter")


def test_what_is_no_adapter_is_refused(quantized, tmp_path):
    with pytest.raises(AdapterError, match="is not a directory"):
        attach(quantized, tmp_path / "nowhere")
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        attach(quantized, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{broken")
    with pytest.raises(AdapterError, match="not readable JSON"):
        attach(quantized, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        attach(quantized, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(AdapterError, match="not a readable safetensors"):
        attach(quantized, tmp_path)
