import pytest
import torch

from quatro.kernels import ops
from quatro.kernels.compute import cpu_has_bf16_units, dense_linear, product_dtypes
from quatro.kernels.scratch import scratch, scratch_bytes
from quatro.nn import Linear4bit


@pytest.fixture
def layer():
    return Linear4bit.from_linear(torch.nn.Linear(128, 48))


def parts(layer):
    return layer.weight, layer.absmax, layer.nested_absmax, layer.nested_offset, layer.zeros


def test_every_op_passes_torchs_own_check(layer):
    x = torch.randn(3, 128, requires_grad=True)
    for backend, precision in (("reference", "high"), ("native", "high"), ("native", "exact")):
        choices = ("nf4", None, 64, torch.float32, precision, backend)
        torch.library.opcheck(ops.linear, (x, *parts(layer), layer.bias, *choices))
        torch.library.opcheck(ops.linear_backward, (torch.randn(3, 48), *parts(layer), *choices))
    torch.library.opcheck(ops.quantize, (torch.randn(301), "nf4", None, True, 64, "reference"))
    torch.library.opcheck(ops.quantize, (torch.randn(300), "int4", None, False, 64, "reference"))
    torch.library.opcheck(ops.quantize_scales, (torch.rand(300), "reference"))
    torch.library.opcheck(ops.dequantize_scales, (layer.absmax, layer.nested_absmax, layer.nested_offset, "reference"))
    torch.library.opcheck(ops.dequantize, (*parts(layer), "nf4", None, 64, [48, 128], torch.bfloat16, "reference"))
    weight = torch.randn(48, 128, dtype=torch.bfloat16)
    torch.library.opcheck(dense_linear, (x, weight, None, torch.float32, torch.float32))


@pytest.mark.parametrize("precision", ["exact", "high"])
def test_the_product_compiles_as_one_graph_with_the_same_bits(layer, precision):
    layer.precision = precision
    x = torch.randn(5, 128, requires_grad=True)
    eager = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(eager, compiled)
    compiled.sum().backward()
    expected = torch.ones(5, 48) @ layer.dequantize()
    if precision == "exact":
        torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-5)
    assert (x.grad - expected).norm() <= 2e-4 * expected.norm()


def test_one_scratch_buffer_serves_all_products_and_is_as_large_as_the_largest_weight():
    layers = [Linear4bit.from_linear(torch.nn.Linear(inputs, 64)) for inputs in (64, 512, 128)]
    for layer in layers:
        layer.precision = "exact"
    for layer in layers:
        layer(torch.randn(2, layer.in_features)).sum()
    assert scratch_bytes() >= 512 * 64 * 4
    before = scratch_bytes()
    for layer in layers:
        layer(torch.randn(2, layer.in_features))
    assert scratch_bytes() == before


def test_autograd_never_keeps_the_scratch_buffer(layer):
    pointers = []

    def remember(tensor):
        pointers.append(tensor.untyped_storage().data_ptr())
        return tensor

    x = torch.randn(4, 128, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        layer(x)
    assert pointers
    assert scratch((1,), torch.float32, torch.device("cpu")).untyped_storage().data_ptr() not in pointers


def test_a_poisoned_scratch_buffer_does_not_show(layer):
    x = torch.randn(4, 128)
    first = layer(x)
    scratch((48, 128), torch.float32, torch.device("cpu")).fill_(torch.nan)
    assert torch.equal(layer(x), first)


def test_the_product_of_a_16_bit_head_is_that_of_its_float32_copy_and_trains():
    weight, x = torch.randn(48, 128).bfloat16().requires_grad_(), torch.randn(2, 3, 128, requires_grad=True)
    out = dense_linear(x, weight, None, torch.float32, torch.float32)
    out.square().sum().backward()
    wide, x2 = weight.detach().float().requires_grad_(), x.detach().clone().requires_grad_()
    torch.nn.functional.linear(x2, wide).square().sum().backward()
    torch.testing.assert_close(out, torch.nn.functional.linear(x, weight.float()))
    assert (x.grad - x2.grad).norm() <= 16 * 128**0.5 * 2**-24 * x2.grad.norm()
    torch.testing.assert_close(weight.grad, wide.grad.bfloat16())


def test_float32_hidden_states_compute_in_float32_and_float16_ones_too_on_a_cpu():
    assert product_dtypes(torch.float32, "cpu", "auto") == (torch.float32, torch.float32)
    assert product_dtypes(torch.float16, "cpu", "auto") == (torch.float16, torch.float32)
    assert product_dtypes(torch.float32, "cpu", "bfloat16") == (torch.float32, torch.bfloat16)


def test_bfloat16_computes_in_bfloat16_only_where_the_cpu_has_units_for_it(monkeypatch):
    wide = torch.bfloat16 if cpu_has_bf16_units() else torch.float32
    assert product_dtypes(torch.bfloat16, "cpu", "auto") == (torch.bfloat16, wide)
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: False)
    assert product_dtypes(torch.bfloat16, "cpu", "auto") == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtypes(torch.float32, "cpu", "auto") == (torch.float32, torch.float32)
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtypes(torch.float32, "cpu", "auto") == (torch.bfloat16, torch.bfloat16)
