import copy
import pickle

import pytest
import torch

from quatro.format.errors import InputError, NonFiniteError, ShapeError
from quatro.format.spec import QuantSpec
from quatro.nn import DenseLinear, Linear4bit

SPECS = [QuantSpec(), QuantSpec(double_quant=False), QuantSpec("fp4"), QuantSpec("int4"), QuantSpec("int4", symmetric=False),
         QuantSpec("nf3"), QuantSpec("nf2"), QuantSpec(table=(-1.0, -0.2, 0.0, 0.4, 1.0))]  # fmt: skip
WIDTHS = [128, 172, 64, 30]


def layer_and_dense(spec=None, inputs=128, outputs=48, bias=True, precision="high"):
    layer = Linear4bit.from_linear(torch.nn.Linear(inputs, outputs, bias=bias), spec or QuantSpec())
    layer.precision = precision
    weight = layer.dequantize().double()
    offset = layer.bias.detach().double() if bias else None
    return layer, lambda x: torch.nn.functional.linear(x, weight, offset)


@pytest.mark.parametrize("inputs", WIDTHS)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_output_and_gradient_equal_the_dense_product_in_float64(spec, inputs):
    # A float32 dot product of n terms errs by at most about sqrt(n) * 2^-24 of its terms' norm; 8 leaves room for its order.
    assert_equals_dense(*layer_and_dense(spec, inputs, precision="exact"), inputs, 8 * inputs**0.5 * 2**-24)


@pytest.mark.parametrize("inputs", WIDTHS)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_at_high_precision_output_and_gradient_err_by_less_than_two_parts_in_ten_thousand(spec, inputs):
    assert_equals_dense(*layer_and_dense(spec, inputs), inputs, 2e-4)


def assert_equals_dense(layer, dense, inputs, bound):
    x = torch.randn(3, 5, inputs, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    layer(x).square().sum().backward()
    dense(wide).square().sum().backward()
    output, expected = layer(x).detach().double(), dense(wide).detach()
    assert (output - expected).norm() <= bound * expected.norm()
    assert (x.grad.double() - wide.grad).norm() <= 2 * bound * wide.grad.norm()
    assert expected.norm() > 0


def test_a_tenth_of_a_percent_wrong_scale_would_exceed_the_bound():
    layer, dense = layer_and_dense(QuantSpec(double_quant=False), precision="exact")
    layer.absmax *= 1.001
    x = torch.randn(5, 128)
    expected = dense(x.double())
    assert (layer(x).double() - expected).norm() > 8 * 128**0.5 * 2**-24 * expected.norm()


def test_the_weight_is_packed_bytes_in_two_dimensions_and_takes_no_gradient():
    layer, _ = layer_and_dense()
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.shape == (48, 64)
    assert not layer.weight.requires_grad
    assert layer.W_q is layer.weight
    assert isinstance(layer, torch.nn.Linear)


def test_scales_lie_in_rows_where_blocks_divide_them_and_flat_where_not():
    assert layer_and_dense(inputs=128)[0].absmax.shape == (48, 2)
    assert layer_and_dense(inputs=172)[0].absmax.shape == (129,)


def test_a_trained_bias_gets_its_gradient():
    layer, _ = layer_and_dense()
    layer(torch.randn(2, 3, 128)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((48,), 6.0))


@pytest.mark.parametrize(("precision", "more"), [("exact", 0.0), ("high", 2e-4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_output_has_the_inputs_dtype(dtype, precision, more):
    layer, dense = layer_and_dense(precision=precision)
    x = torch.randn(4, 128).to(dtype)
    assert layer(x).dtype == dtype
    error = (layer(x).double() - dense(x.double())).norm() / dense(x.double()).norm()
    assert error <= {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 6e-4}[dtype] + more


def test_a_single_row_without_a_batch_trains_the_bias_too():
    layer, _ = layer_and_dense()
    layer(torch.randn(128, requires_grad=True)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.ones(48))


def test_buffers_have_their_dtypes_whatever_the_default_dtype_is():
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = Linear4bit(64, 8, spec=QuantSpec("int4", symmetric=False))
    finally:
        torch.set_default_dtype(torch.float32)
    dtypes = {name: tensor.dtype for name, tensor in layer.named_buffers()}
    assert dtypes == {
        "absmax": torch.uint8,
        "nested_absmax": torch.float32,
        "nested_offset": torch.float32,
        "zeros": torch.float32,
    }


@pytest.mark.parametrize(
    "cast", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float16), lambda m: m.double()]
)
def test_casting_a_model_does_not_change_its_quantized_weights(cast):
    layer, _ = layer_and_dense(QuantSpec(double_quant=False))
    before = layer.dequantize()
    cast(layer)
    assert layer.absmax.dtype == torch.float32
    assert torch.equal(layer.dequantize(), before)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_state_dict_deepcopy_and_pickle_keep_every_bit(spec):
    layer, _ = layer_and_dense(spec)
    x = torch.randn(2, 128)
    fresh = Linear4bit(128, 48, spec=spec)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert copy.deepcopy(layer).weight.data_ptr() != layer.weight.data_ptr()


def test_a_layer_on_the_meta_device_holds_nothing_and_takes_tensors_later():
    layer = Linear4bit(128, 48, device="meta")
    source, _ = layer_and_dense()
    layer.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(layer.dequantize(), source.dequantize())


def test_a_new_layer_answers_zeros():
    assert torch.equal(Linear4bit(64, 8)(torch.randn(2, 64)), torch.zeros(2, 8))


def test_gpt2s_transposed_layer_becomes_the_same_product():
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(48, 128)
    torch.nn.init.normal_(conv.bias)
    layer = Linear4bit.from_linear(conv)
    x = torch.randn(3, 128)
    assert (layer.in_features, layer.out_features) == (128, 48)
    assert (layer(x) - conv(x)).norm() / conv(x).norm() < 0.15
    expected = torch.nn.functional.linear(x, layer.dequantize(), conv.bias)
    layer.precision = "exact"
    torch.testing.assert_close(layer(x), expected)


def test_peft_sees_in_and_out_features():
    layer, _ = layer_and_dense()
    assert (layer.in_features, layer.out_features) == (128, 48)
    assert "nf4, block_size=64, double_quant" in repr(layer)


def test_what_cannot_be_a_layer_is_refused():
    with pytest.raises(ShapeError, match="even in_features"):
        Linear4bit(63, 8)
    with pytest.raises(ShapeError, match="even in_features"):
        Linear4bit.from_linear(torch.nn.Linear(63, 8))
    with pytest.raises(InputError, match="precision 'low' is unknown"):
        Linear4bit(64, 8, precision="low")
    with pytest.raises(InputError, match="compute_dtype 'int8' is unknown"):
        Linear4bit(64, 8, compute_dtype="int8")
    with pytest.raises(ShapeError, match="two-dimensional weight, got LayerNorm"):
        Linear4bit.from_linear(torch.nn.LayerNorm(8))
    with pytest.raises(ShapeError, match="rows of 128"):
        layer_and_dense()[0](torch.randn(2, 64))


def test_nan_in_a_weight_names_the_tensor_and_the_index():
    linear = torch.nn.Linear(64, 8)
    linear.weight.data[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"layers.0.q_proj.weight holds nan at flat index 66"):
        Linear4bit.from_linear(linear, name="layers.0.q_proj.weight")


def test_parts_of_another_shape_or_spec_are_not_taken_over():
    layer, _ = layer_and_dense()
    with pytest.raises(ShapeError, match="this layer holds"):
        layer.set_quantized(layer_and_dense(inputs=64)[0].quantized)
    with pytest.raises(ShapeError, match="this layer holds"):
        layer.set_quantized(layer_and_dense(QuantSpec("fp4"))[0].quantized)


def test_under_autocast_the_output_is_autocasts_and_gradients_flow(monkeypatch):
    layer, _ = layer_and_dense()
    x = torch.randn(2, 128, requires_grad=True)
    for has_units, expected in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda has=has_units: has)
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        assert out.dtype == expected
        out.float().sum().backward()
        assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("inputs", [128, 172])
def test_autocast_does_not_reach_inside_a_product_that_is_meant_to_be_float32(monkeypatch, inputs):
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: False)
    layer, dense = layer_and_dense(inputs=inputs, precision="exact")
    x, wide = torch.randn(5, inputs, requires_grad=True), torch.randn(5, inputs, dtype=torch.float64, requires_grad=True)
    wide.data.copy_(x.detach())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    expected = dense(wide)
    (expected_gradient,) = torch.autograd.grad(expected, wide, torch.ones_like(expected))
    bound = 8 * inputs**0.5 * 2**-24
    assert (y - expected).norm() <= bound * expected.norm()
    assert (gradient - expected_gradient).norm() <= 2 * bound * expected_gradient.norm()


def test_a_dense_head_keeps_its_16_bit_weight_and_follows_the_hidden_states():
    head = DenseLinear.from_linear(torch.nn.Linear(64, 32, bias=False).bfloat16())
    x = torch.randn(2, 64, requires_grad=True)
    out = head(x)
    assert head.weight.dtype == torch.bfloat16
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.nn.functional.linear(x, head.weight.float()))
    out.sum().backward()
    assert x.grad is not None
    assert head.weight.grad.dtype == torch.bfloat16
