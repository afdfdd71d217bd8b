import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import quatro
from quatro.format.errors import CheckpointError, NonFiniteError
from quatro.integrations.summary import summarize
from quatro.nn import DenseLinear, Linear4bit
from tests.integrations.conftest import IDS


def dense_twin(model, directory):
    """The model of plain linears whose weights are the dequantized ones."""
    twin = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Linear4bit):
                twin.get_submodule(name).weight.copy_(module.dequantize())
    return twin


def test_loading_quantizes_every_linear_but_the_head(quantized):
    kinds = {name: type(module) for name, module in quantized.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name for name, kind in kinds.items() if kind is not Linear4bit} == {"lm_head"}
    assert kinds["lm_head"] is DenseLinear
    assert len(kinds) == 1 + 2 * 7


@pytest.mark.parametrize(("precision", "bound"), [("exact", 1e-5), ("high", 1e-3)])
def test_the_loaded_model_computes_what_its_dequantized_twin_computes(quantized, tiny_llama, precision, bound):
    for module in quantized.modules():
        if isinstance(module, Linear4bit):
            module.precision = precision
    with torch.no_grad():
        ours, twin = quantized(IDS).logits, dense_twin(quantized, tiny_llama)(IDS).logits
    assert (ours - twin).norm() <= bound * twin.norm()
    assert twin.norm() > 0


def test_loading_quantizes_as_quantize_does(quantized, tiny_llama):
    source = LlamaForCausalLM.from_pretrained(tiny_llama, dtype="auto").model.layers[1].mlp.up_proj.weight
    layer = quantized.model.layers[1].mlp.up_proj
    assert torch.equal(layer.weight, quatro.quantize(source.detach()).codes)


def test_embeddings_and_head_keep_the_checkpoints_dtype_and_norms_are_float32(quantized):
    assert quantized.model.embed_tokens.weight.dtype == torch.bfloat16
    assert quantized.lm_head.weight.dtype == torch.bfloat16
    assert quantized.model.norm.weight.dtype == torch.float32
    assert {type(module).__name__ for module in quantized.modules() if "Norm" in type(module).__name__} == {"LlamaRMSNorm"}


def test_skip_modules_stay_dense_and_are_reported(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_llama, quantization_config=quatro.QuatroConfig(skip_modules=["down_proj"])
    )
    assert type(model.model.layers[0].mlp.down_proj) is DenseLinear
    assert type(model.model.layers[0].mlp.up_proj) is Linear4bit
    assert summarize(model).dense_layers["model.layers.0.mlp.down_proj"] == "in skip_modules"


def test_rows_with_an_odd_number_of_inputs_stay_dense_and_are_reported(tmp_path):
    from transformers import LlamaConfig

    LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=33, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig())
    assert summarize(model).dense_layers["model.layers.0.mlp.down_proj"] == "odd number of inputs"
    assert torch.isfinite(model(IDS % 32).logits).all()


def test_the_summary_counts_true_weights_and_real_bytes(quantized):
    summary = summarize(quantized)
    dense = LlamaForCausalLM(quantized.config)
    assert summary.parameters == sum(parameter.numel() for parameter in dense.parameters())
    assert summary.in_4bit == 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 172 * 3)
    assert summary.bytes < summary.bytes_16bit


@pytest.mark.parametrize(
    "order", ["import quatro, transformers", "import transformers, quatro", "import transformers.modeling_utils, quatro"]
)
def test_a_saved_model_loads_in_a_fresh_process_with_the_same_logits_to_the_bit(quantized, tmp_path, run_fresh, order):
    quantized.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.save(quantized(IDS).logits, tmp_path / "logits.pt")
    printed = run_fresh(
        f"{order}\nimport torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained(r'{tmp_path / 'saved'}')\n"
        "logits = model(torch.arange(40).view(2, 20) % 96).logits\n"
        f"print(torch.equal(logits, torch.load(r'{tmp_path / 'logits.pt'}')), type(model.model.layers[0].mlp.up_proj).__name__)"
    )
    assert printed.split() == ["True", "Linear4bit"]


def test_import_quatro_is_light(run_fresh):
    heavy = run_fresh("import quatro, sys\nprint([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_a_trainer_that_counts_parameters_does_not_need_bitsandbytes(tiny_llama, run_fresh):
    """transformers imports bitsandbytes in num_parameters for models that say is_loaded_in_4bit; ours do not say it."""
    printed = run_fresh(
        "import quatro, sys\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained(r'{tiny_llama}', quantization_config=quatro.QuatroConfig())\n"
        "print(model.num_parameters(exclude_embeddings=True) > 0, 'bitsandbytes' in sys.modules)"
    )
    assert printed.split() == ["True", "False"]


def test_gpt2_with_its_transposed_layers_is_quantized_saved_and_loaded(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    model.save_pretrained(tmp_path / "dense")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=quatro.QuatroConfig())
    attention = loaded.transformer.h[0].attn.c_attn
    assert isinstance(attention, Linear4bit)
    source = model.transformer.h[0].attn.c_attn.weight.detach().T.contiguous()
    assert torch.equal(attention.weight, quatro.quantize(source).codes)
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, again(IDS).logits)
        assert (loaded(IDS).logits - model.eval()(IDS).logits).norm() < 0.3 * model(IDS).logits.norm()


def test_every_quant_type_survives_saving_and_loading(tiny_llama, tmp_path):
    kinds = {"fp4": {}, "int4": {}, "affine": {"quant_type": "int4", "symmetric": False}, "nf3": {"double_quant": False}, "nf2": {},
             "own": {"table": [-1.0, -0.25, 0.0, 0.25, 1.0]}}  # fmt: skip
    for name, options in kinds.items():
        if name in ("fp4", "int4", "nf3", "nf2"):
            options = options | {"quant_type": name}
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=quatro.QuatroConfig(**options))
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / name)(IDS).logits, model(IDS).logits), name


def test_nan_in_a_weight_stops_loading_with_tensor_name_and_index(tiny_llama, tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[2, 3] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight holds nan at flat index 131"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quatro.QuatroConfig())


def test_a_model_without_a_layer_to_quantize_is_refused(tiny_llama):
    with pytest.raises(CheckpointError, match="no linear layer to quantize"):
        AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=quatro.QuatroConfig(skip_modules=["proj"]))


def test_a_configuration_of_a_newer_version_is_refused_by_the_unknown_key():
    with pytest.raises(CheckpointError, match="no key 'group_size'.*upgrade"):
        quatro.QuatroConfig(group_size=64)


def test_bf16_autocast_trains_and_is_close_to_float32(quantized):
    plain = quantized(IDS, labels=IDS).loss
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantized(IDS, labels=IDS).loss
    cast.backward()
    assert float((plain - cast).detach().abs()) < 0.02 * float(plain.detach())
    assert quantized.model.norm.weight.grad is not None


def test_the_head_stays_in_float32_under_autocast_on_a_cpu_without_bf16_units(quantized, monkeypatch):
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert quantized(IDS).logits.dtype == torch.float32
