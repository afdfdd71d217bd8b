import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quatro.format.errors import ShapeError
from quatro.format.spec import QuantSpec
from quatro.nn.experts import Experts4bit
from quatro.tensor.quantized import quantize_with


def gate(rows: Tensor) -> Tensor:
    a, b = rows.chunk(2, dim=-1)
    return torch.nn.functional.silu(a) * b


def experts(count: int = 4, hidden: int = 64, inner: int = 32, spec: QuantSpec | None = None, bias: bool = False, **options):
    shapes = {"gate_up_proj": (2 * inner, hidden), "down_proj": (hidden, inner)}
    generator = torch.Generator().manual_seed(0)
    biases = {name: torch.nn.Parameter(torch.randn(count, shape[0], generator=generator)) for name, shape in shapes.items()}
    made = Experts4bit(count, shapes, gate, biases if bias else None, spec, precision="exact", **options)
    for name, shape in shapes.items():
        weights = [torch.randn(shape, generator=generator) / 8 for _ in range(count)]
        made.set_quantized(name, [quantize_with(weight, made.spec, name) for weight in weights])
    return made


def plain(module: Experts4bit, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token, the router's weights picking: obvious, and wasteful."""
    up, down = (module.dequantize(name).to(hidden.dtype) for name in module.projections)
    biases = [getattr(module, f"{name}_bias") for name in module.projections]
    rows = []
    for token, (chosen, shares) in enumerate(zip(index.tolist(), weights, strict=True)):
        total = torch.zeros_like(hidden[token])
        for expert, share in zip(chosen, shares, strict=True):
            if expert < module.num_experts:
                inner = gate(
                    torch.nn.functional.linear(hidden[token], up[expert], None if biases[0] is None else biases[0][expert])
                )
                out = torch.nn.functional.linear(inner, down[expert], None if biases[1] is None else biases[1][expert])
                total = total + share * out
        rows.append(total)
    return torch.stack(rows)


def routed(count: int, tokens: int, k: int, hidden: int = 64):
    generator = torch.Generator().manual_seed(tokens)
    index = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(tokens)])
    return torch.randn(tokens, hidden, generator=generator), index, torch.rand(tokens, k, generator=generator)


@given(
    count=st.integers(1, 5),
    tokens=st.integers(1, 9),
    inner=st.sampled_from([32, 48, 96]),
    double=st.booleans(),
    bias=st.booleans(),
    kind=st.sampled_from(["nf4", "fp4", "int4"]),
)
@settings(max_examples=25, deadline=None)
def test_the_result_is_that_of_every_token_with_its_experts_dequantized_matrices(count, tokens, inner, double, bias, kind):
    module = experts(count, inner=inner, spec=QuantSpec(kind, 64, double), bias=bias)
    hidden, index, weights = routed(count, tokens, min(2, count))
    expected = plain(module, hidden, index, weights)
    for watched in (True, False):
        with torch.set_grad_enabled(watched):
            found = module(hidden, index, weights)
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * expected.detach().abs().max().item())


@given(double=st.booleans(), symmetric=st.booleans(), inner=st.sampled_from([32, 48, 64]))
@settings(max_examples=12, deadline=None)
def test_each_experts_matrix_is_its_own_source_quantized_alone(double, symmetric, inner):
    spec = QuantSpec("nf4" if symmetric else "int4", 64, double, symmetric)
    module = experts(inner=inner, spec=spec)
    for name, shape in module.projections.items():
        alone = [quantize_with(torch.randn(shape) * (expert + 1), spec, name) for expert in range(module.num_experts)]
        module.set_quantized(name, alone)
        assert torch.equal(module.dequantize(name), torch.stack([tensor.dequantize() for tensor in alone]))


def test_gradients_reach_the_tokens_and_the_routers_weights():
    module = experts(bias=True)
    hidden, index, weights = routed(4, 7, 2)
    inputs = [(hidden.clone().requires_grad_(), weights.clone().requires_grad_()) for _ in range(2)]
    module(inputs[0][0], index, inputs[0][1]).square().sum().backward()
    plain(module, inputs[1][0], index, inputs[1][1]).square().sum().backward()
    for found, expected in zip(*inputs, strict=True):
        assert float((found.grad - expected.grad).norm()) <= 1e-5 * float(expected.grad.norm())


def test_only_experts_that_a_token_was_sent_to_are_multiplied(monkeypatch):
    module = experts()
    seen = []
    project = Experts4bit._project

    def counted(self, name, expert, x):
        seen.append((name, expert, x.shape[0]))
        return project(self, name, expert, x)

    monkeypatch.setattr(Experts4bit, "_project", counted)
    module(torch.randn(3, 64), torch.tensor([[1, 3], [3, 1], [3, 4]]), torch.ones(3, 2))
    assert seen == [("gate_up_proj", 1, 2), ("down_proj", 1, 2), ("gate_up_proj", 3, 3), ("down_proj", 3, 3)]


def test_casting_leaves_scales_in_float32_and_a_state_dict_carries_everything():
    module = experts()
    expected = module.dequantize("down_proj")
    other = Experts4bit(4, module.projections, gate, spec=module.spec)
    other.load_state_dict(module.to(torch.bfloat16).state_dict())
    assert torch.equal(other.dequantize("down_proj"), expected)


def test_an_odd_number_of_inputs_is_refused():
    with pytest.raises(ShapeError, match="even number of inputs"):
        Experts4bit(2, {"up_proj": (8, 7), "down_proj": (7, 8)}, gate)
