"""The adapter's product on a 4-bit layer against the same sums in float64."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import dropout as torch_dropout
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from quatro.format.errors import InputError, ShapeError
from quatro.format.spec import QuantSpec
from quatro.kernels import ops
from quatro.kernels.scratch import scratch
from quatro.nn import Linear4bit, lora
from quatro.nn.lora import lora_linear, lora_linear_backward_op, lora_linear_op

SINGLE = 2**-24
HALF = {torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float32: 0.0}
NAMES = ("y", "x", "A", "B")


def problem(inputs=128, outputs=48, r=8, tokens=(3, 5), dtype=torch.float32, adapter_dtype=torch.float32, spec=None, bias=True):
    """A layer, an adapter, an input and a cotangent."""
    layer = Linear4bit.from_linear(torch.nn.Linear(inputs, outputs, bias=bias), spec or QuantSpec())
    layer.precision = "exact"
    layer.requires_grad_(False)
    return SimpleNamespace(
        layer=layer,
        x=torch.randn(*tokens, inputs).to(dtype).requires_grad_(),
        a=(torch.randn(r, inputs) / inputs**0.5).to(adapter_dtype).requires_grad_(),
        b=torch.randn(outputs, r).to(adapter_dtype).requires_grad_(),
        grad=torch.randn(*tokens, outputs).to(dtype),
        scaling=1.7,
    )


def fused(case, dropout=0.0, seed=11):
    """y and the gradients to x, A and B."""
    torch.manual_seed(seed)
    y = lora_linear(case.x, case.layer, case.a, case.b, case.scaling, dropout)
    return y.detach(), *torch.autograd.grad(y, (case.x, case.a, case.b), case.grad.to(y.dtype))


def kept(case, dropout, seed=11):
    """What nn.Dropout multiplies by, from the same seed."""
    torch.manual_seed(seed)
    return (torch_dropout(torch.ones_like(case.x), dropout) != 0).double() / (1 - dropout) if dropout else 1.0


def oracle(case, keep=1.0, scaling=None, sizes=False):
    """The same four in float64; with `sizes`, the sums of their terms' magnitudes, which bound what rounding can do."""
    of = torch.abs if sizes else (lambda tensor: tensor)
    x, a, b = (of(tensor.detach().double()).requires_grad_() for tensor in (case.x, case.a, case.b))
    weight = of(case.layer.dequantize().double())
    bias = None if case.layer.bias is None else of(case.layer.bias.detach().double())
    update = (scaling or case.scaling) * ((x * keep) @ a.T) @ b.T
    y = torch.nn.functional.linear(x, weight, bias) + update
    return y.detach(), *torch.autograd.grad(y, (x, a, b), of(case.grad.double()))


def bounds(case, keep=1.0):
    """How far each of the four may be off (docs/numerics.md, "The adapter's product")."""
    tokens, inputs = case.x.numel() // case.x.shape[-1], case.x.shape[-1]
    outputs, r = case.b.shape
    chains = ((inputs, r), (outputs, r), (outputs, tokens), (inputs, tokens))
    stored = 3 * max(HALF[case.x.dtype], HALF[case.a.dtype])
    rounding = [8 * SINGLE * (first**0.5 + second**0.5) + stored for first, second in chains]
    return [float(share * size.norm()) for share, size in zip(rounding, oracle(case, keep, sizes=True), strict=True)]


def errors(found, expected):
    return [float((mine.double() - right).norm()) for mine, right in zip(found, expected, strict=True)]


def wrong(found, expected, allowed):
    """The names of the results that are further off than allowed."""
    return [name for name, e, limit in zip(NAMES, errors(found, expected), allowed, strict=True) if not e <= limit]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("r", [1, 16])
@pytest.mark.parametrize("inputs", [128, 172, 30])
def test_output_and_gradients_equal_the_dense_sums_in_float64(inputs, r, dropout):
    case = problem(inputs, r=r)
    keep = kept(case, dropout)
    expected = oracle(case, keep)
    assert wrong(fused(case, dropout), expected, bounds(case, keep)) == []
    assert all(tensor.norm() > 0 for tensor in expected)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.lists(st.sampled_from([0, 1, 2, 5, 70]), max_size=2),
    half=st.integers(1, 80),
    outputs=st.integers(1, 70),
    r=st.integers(1, 20),
    dropout=st.sampled_from([0.0, 0.05, 0.9]),
    double_quant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_shape_equals_the_dense_sums(tokens, half, outputs, r, dropout, double_quant, seed):
    torch.manual_seed(seed)
    case = problem(2 * half, outputs, r, tokens, spec=QuantSpec(double_quant=double_quant), bias=seed % 2 == 0)
    keep = kept(case, dropout)
    found = fused(case, dropout)
    assert [tensor.shape for tensor in found] == [case.grad.shape, case.x.shape, case.a.shape, case.b.shape]
    assert wrong(found, oracle(case, keep), bounds(case, keep)) == []


def test_a_scaling_wrong_by_a_thousandth_would_exceed_the_bounds():
    case = problem(tokens=(40,))
    assert wrong(fused(case), oracle(case, scaling=1.001 * case.scaling), bounds(case)) == list(NAMES)


def test_a_mask_forgotten_on_the_way_back_would_exceed_the_bound(monkeypatch):
    case = problem(tokens=(70,))
    keep = kept(case, 0.1)
    unmasked = lora._add_masked_product
    monkeypatch.setattr(lora, "_add_masked_product", lambda *args: unmasked(*args[:3], None, args[4]))
    assert wrong(fused(case, 0.1), oracle(case, keep), bounds(case, keep)) == ["x"]


def test_a_mask_of_another_seed_would_exceed_the_bounds():
    case = problem(tokens=(70,))
    keep = kept(case, 0.1, seed=12)
    assert wrong(fused(case, 0.1), oracle(case, keep), bounds(case, keep)) == list(NAMES)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("adapter_dtype", HALF)
@pytest.mark.parametrize("dtype", HALF)
def test_dtypes_are_the_layers_and_the_adapters_own(dtype, adapter_dtype, dropout):
    case = problem(tokens=(70,), dtype=dtype, adapter_dtype=adapter_dtype)
    keep, found = kept(case, dropout), fused(case, dropout)
    assert [tensor.dtype for tensor in found] == [case.layer(case.x).dtype, dtype, adapter_dtype, adapter_dtype]
    assert wrong(found, oracle(case, keep), bounds(case, keep)) == []


def test_tokens_in_another_order_of_memory_give_the_same():
    case = problem(tokens=(3, 70), inputs=64)
    straight = fused(case)
    case.x = case.x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not case.x.is_contiguous()
    assert wrong(fused(case), straight, bounds(case)) == []


def test_under_autocast_a_cpu_without_bf16_units_computes_in_float32(monkeypatch):
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: False)
    case = problem()
    plain = fused(case)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(mine, other) for mine, other in zip(fused(case), plain, strict=True))


def test_under_autocast_a_cpu_with_bf16_units_gives_bf16(monkeypatch):
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: True)
    case = problem()
    with torch.autocast("cpu", torch.bfloat16):
        found = fused(case)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, *[torch.float32] * 3]
    case.x = case.x.detach().bfloat16().requires_grad_()
    assert wrong(found, oracle(case), bounds(case)) == []


def test_a_trained_bias_gets_its_gradient():
    for tokens in [(), (3,), (2, 3)]:
        case = problem(tokens=tokens)
        case.layer.bias.requires_grad_()
        y = lora_linear(case.x, case.layer, case.a, case.b, 1.0)
        (gradient,) = torch.autograd.grad(y.sum(), case.layer.bias)
        assert torch.equal(gradient, torch.full((48,), float(torch.Size(tokens).numel())))


def test_nan_in_a_row_makes_that_whole_row_nan_and_no_other():
    case = problem(tokens=(4,))
    with torch.no_grad():
        case.x[1, 7] = torch.nan
        y = lora_linear(case.x, case.layer, case.a, case.b, 1.0, 0.5)
    assert y.isnan().all(1).tolist() == [False, True, False, False]
    assert y.isnan().any(1).tolist() == [False, True, False, False]


class Saved:
    """What autograd keeps while a block runs."""

    def __enter__(self):
        self.tensors = []
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def keep(self, tensor):
        self.tensors.append(tensor)
        return tensor

    def __exit__(self, *reason):
        self.hooks.__exit__(*reason)

    def bytes_beyond(self, *given):
        """Bytes of kept storages that none of the given tensors has."""
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.tensors}
        return sum(size for pointer, size in kept.items() if pointer not in known)


def given_tensors(case):
    return [case.x, case.a, case.b, *case.layer.parameters(), *case.layer.buffers()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_beside_what_was_given_backward_keeps_u_and_a_byte_an_element_of_dropout(dropout, dtype):
    case = problem(tokens=(70,), dtype=dtype)
    with Saved() as saved:
        y = lora_linear(case.x, case.layer, case.a, case.b, 1.0, dropout)
    assert saved.bytes_beyond(*given_tensors(case)) == 70 * 8 * 4 + (70 * 128 if dropout else 0)
    assert case.x.data_ptr() in [tensor.data_ptr() for tensor in saved.tensors]
    assert y.requires_grad


def test_what_no_gradient_needs_is_not_kept():
    case = problem(tokens=(70,))
    case.a.requires_grad_(False)
    with Saved() as saved:
        lora_linear(case.x, case.layer, case.a, case.b, 1.0)
    assert case.x.data_ptr() not in [tensor.data_ptr() for tensor in saved.tensors]
    case.b.requires_grad_(False)
    with Saved() as saved:
        y = lora_linear(case.x, case.layer, case.a, case.b, 1.0)
    assert saved.bytes_beyond(*given_tensors(case)) == 0
    assert y.requires_grad


@pytest.mark.parametrize("wanted", ["x", "a", "b"])
def test_each_gradient_alone_is_the_one_among_all(wanted):
    case = problem(tokens=(70,))
    together = dict(zip(("y", "x", "a", "b"), fused(case, 0.3), strict=True))
    for name in {"x", "a", "b"} - {wanted}:
        getattr(case, name).requires_grad_(False)
    torch.manual_seed(11)
    y = lora_linear(case.x, case.layer, case.a, case.b, case.scaling, 0.3)
    (alone,) = torch.autograd.grad(y, getattr(case, wanted), case.grad)
    assert torch.equal(alone, together[wanted])


def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept():
    case = problem()
    for dropout in (0.0, 0.3):
        with Saved() as saved, torch.no_grad():
            torch.manual_seed(11)
            y = lora_linear(case.x, case.layer, case.a, case.b, case.scaling, dropout)
        assert torch.equal(y, fused(case, dropout)[0])
        assert not y.requires_grad
        assert saved.tensors == []


class Results(TorchDispatchMode):
    """The storages of at least some size that operations return while a block runs."""

    def __init__(self, size):
        super().__init__()
        self.size, self.tensors = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() >= self.size:
            self.tensors.append(result)
        return result


def test_the_adapters_product_needs_no_second_tensor_of_the_outputs_size():
    case = problem(inputs=32, outputs=512, tokens=(70,))
    with torch.no_grad(), Results(70 * 512 * 4) as results:
        y = lora_linear(case.x, case.layer, case.a, case.b, case.scaling, 0.3)
    shared = scratch((1,), torch.float32, torch.device("cpu")).untyped_storage().data_ptr()
    storages = {tensor.untyped_storage().data_ptr() for tensor in results.tensors} - {shared}
    assert storages == {y.untyped_storage().data_ptr()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_to_x_is_summed_where_the_base_layers_gradient_lies(monkeypatch, dropout):
    case, base_gradients, real = problem(), [], ops.linear_backward
    monkeypatch.setattr(ops, "linear_backward", lambda *args: base_gradients.append(real(*args)) or base_gradients[-1])
    assert fused(case, dropout)[1].data_ptr() == base_gradients[0].data_ptr()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputation_draws_the_same_mask_and_gives_the_same_bits(dropout, use_reentrant):
    case = problem(tokens=(70,))
    expected = fused(case, dropout)
    torch.manual_seed(11)
    y = checkpoint(
        lambda x: lora_linear(x, case.layer, case.a, case.b, case.scaling, dropout), case.x, use_reentrant=use_reentrant
    )
    y.backward(case.grad)
    found = (y.detach(), case.x.grad, case.a.grad, case.b.grad)
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))


def test_it_compiles_as_one_graph_with_the_same_bits():
    case = problem()
    compiled = torch.compile(lora_linear, fullgraph=True, backend="aot_eager")
    for tokens, dropout in [((3, 5), 0.0), ((3, 70), 0.0), ((3, 5), 0.3)]:
        case.x = torch.randn(*tokens, 128, requires_grad=True)
        case.grad = torch.randn(*tokens, 48)
        expected = fused(case, dropout)
        torch.manual_seed(11)
        y = compiled(case.x, case.layer, case.a, case.b, case.scaling, dropout)
        found = (y.detach(), *torch.autograd.grad(y, (case.x, case.a, case.b), case.grad))
        assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
        with torch.no_grad():
            alone = compiled(case.x, case.layer, case.a, case.b, case.scaling)
        assert torch.equal(alone, lora_linear(case.x, case.layer, case.a, case.b, case.scaling))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [(3, 5), (), (0,)])
def test_the_ops_pass_torchs_own_check(tokens, masked):
    case = problem(tokens=tokens)
    layer, single = case.layer, torch.float32
    mask = torch.empty_like(case.x, dtype=torch.uint8).bernoulli_(0.5) if masked else None
    parts = (layer.weight, layer.absmax, layer.nested_absmax, layer.nested_offset, layer.zeros)
    choices = ("nf4", None, 64, single, "exact", "reference", 1.5)
    torch.library.opcheck(lora_linear_op, (case.x, case.a, case.b, mask, *parts, layer.bias, *choices, single, single))
    x, a, b, u = case.x.detach(), case.a.detach(), case.b.detach(), torch.randn(*tokens, 8)
    torch.library.opcheck(lora_linear_backward_op, (case.grad, a, b, x, u, mask, *parts, *choices, single))
    torch.library.opcheck(lora_linear_backward_op, (case.grad, a, b, None, None, mask, *(None,) * 5, *choices, single))


def test_what_does_not_fit_is_refused():
    case = problem()
    with pytest.raises(ShapeError, match="rows of 128, got an input of shape \\(2, 64\\)"):
        lora_linear(torch.randn(2, 64), case.layer, case.a, case.b, 1.0)
    with pytest.raises(ShapeError, match="A \\(r, 128\\) and B \\(48, r\\), got \\(8, 128\\) and \\(48, 4\\)"):
        lora_linear(case.x, case.layer, case.a, torch.randn(48, 4), 1.0)
    with pytest.raises(ShapeError, match="got \\(128,\\)"):
        lora_linear(case.x, case.layer, torch.randn(128), case.b, 1.0)
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match="dropout is a share"):
            lora_linear(case.x, case.layer, case.a, case.b, 1.0, share)
