import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from quatro.format.errors import InputError, ShapeError
from quatro.nn.cross_entropy import IGNORED, chunk_tokens, head_cross_entropy, head_loss, head_losses, loss_by_chunks


def case(tokens=24, inputs=16, outputs=37, ignored=0.3, dtype=torch.float32, bias=True, size=2.0):
    """Hidden states and a head whose logits are some `size` large, all of them trained, and labels of which some are ignored."""
    hidden = torch.randn(tokens, inputs, dtype=dtype, requires_grad=True)
    weight = (torch.randn(outputs, inputs) * size / inputs**0.5).to(dtype).requires_grad_()
    labels = torch.randint(0, outputs, (tokens,)).masked_fill(torch.rand(tokens) < ignored, IGNORED)
    return hidden, weight, labels, torch.randn(outputs, dtype=dtype, requires_grad=True) if bias else None


def oracle(hidden, weight, labels, bias=None):
    """Loss, gradients to each trained part, and the largest logit, in float64 by torch's own functions."""
    parts = [None if part is None else part.detach().double().requires_grad_() for part in (hidden, weight, bias)]
    logits = linear(*parts)
    loss = cross_entropy(logits, labels)
    loss.backward()
    return loss.detach(), [None if part is None else part.grad for part in parts], float(logits.detach().abs().max())


def bounds(hidden, weight, largest):
    """docs/numerics.md, "The loss below the head": how far the loss may be off, and each gradient relative and absolute."""
    u, (tokens, inputs), outputs = 2**-24, hidden.shape, weight.shape[0]
    logit = 8 * inputs**0.5 * u * largest
    near_one = [4 * u * float(part.detach().norm()) for part in (weight, hidden)]
    return 2 * logit + 8 * u * (largest + 8), 2 * logit + 8 * max(outputs, tokens) ** 0.5 * u, [*near_one, 4 * u]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 40),
    inputs=st.integers(1, 33),
    outputs=st.integers(2, 70),
    chunk=st.integers(1, 50),
    ignored=st.sampled_from([0.0, 0.5, 0.9]),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_loss_and_gradients_are_those_of_whole_logits_in_float64(tokens, inputs, outputs, chunk, ignored, bias, seed):
    torch.manual_seed(seed)
    hidden, weight, labels, offset = case(tokens, inputs, outputs, ignored, bias=bias)
    labels[0] = outputs - 1
    expected, gradients, largest = oracle(hidden, weight, labels, offset)
    loss = head_cross_entropy(hidden, weight, labels, offset, chunk=chunk)
    loss.backward()
    of_loss, relative, absolute = bounds(hidden, weight, largest)
    assert abs(loss.double() - expected) <= of_loss
    for part, gradient, more in zip((hidden, weight, offset), gradients, absolute, strict=True):
        assert part is None or (part.grad.double() - gradient).norm() <= relative * gradient.norm() + more


@pytest.mark.parametrize("mistake", ["scale", "label"])
def test_a_mistake_of_a_thousandth_would_exceed_the_bounds(mistake):
    hidden, weight, labels, _ = case(tokens=64, bias=False)
    expected, (gradient, *_), largest = oracle(hidden, weight, labels)
    if mistake == "scale":
        loss = head_cross_entropy(hidden, weight * 1.001, labels)
    else:
        labels[labels != IGNORED] = (labels[labels != IGNORED] + 1) % 37
        loss = head_cross_entropy(hidden, weight, labels)
    (found,) = torch.autograd.grad(loss, hidden)
    of_loss, relative, absolute = bounds(hidden, weight, largest)
    assert abs(loss - expected) > of_loss
    assert (found - gradient).norm() > relative * gradient.norm() + absolute[0]


def test_the_gradient_is_the_derivative():
    hidden, weight, labels, bias = case(tokens=7, inputs=3, outputs=5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *parts: head_cross_entropy(*parts[:2], labels, parts[2], chunk=3), (hidden, weight, bias)
    )
    loss = head_cross_entropy(hidden, weight, labels, bias, chunk=3)
    torch.testing.assert_close(loss, cross_entropy(linear(hidden, weight, bias), labels))


def test_a_frozen_head_costs_no_gradient_of_its_size():
    hidden, weight, labels, _ = case(bias=False)
    weight.requires_grad_(False)
    head_cross_entropy(hidden, weight, labels).backward()
    assert weight.grad is None
    _, _, to_hidden, *others = loss_by_chunks(hidden.detach(), weight, None, labels, torch.float32, 8, [True, False, False])
    assert to_hidden.shape == hidden.shape
    assert [part.numel() for part in others] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_head_below_float32_states_counts_as_its_float32_copy(dtype):
    hidden, weight, labels, bias = case()
    weight, bias = (part.detach().to(dtype) for part in (weight, bias))
    loss = head_cross_entropy(hidden, weight, labels, bias, chunk=5)
    (found,) = torch.autograd.grad(loss, hidden)
    expected, (gradient, *_), largest = oracle(hidden, weight.float(), labels, bias.float())
    of_loss, relative, absolute = bounds(hidden, weight, largest)
    assert abs(loss.double() - expected) <= of_loss
    assert (found - gradient).norm() <= relative * gradient.norm() + absolute[0]


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_16_bit_states_keep_their_dtype_and_the_loss_is_float32(dtype, rounding):
    """Logits of at most `largest` move by one rounding, the loss by twice that; a gradient rounds once more, the product's two sides too."""
    hidden, weight, labels, _ = case(tokens=64, dtype=dtype, bias=False)
    expected, gradients, largest = oracle(hidden, weight, labels)
    loss = head_cross_entropy(hidden, weight, labels, chunk=7)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss - expected) <= 2 * rounding * largest
    for part, gradient in zip((hidden, weight), gradients[:2], strict=True):
        assert part.grad.dtype == dtype
        assert (part.grad.double() - gradient).norm() <= (2 * largest + 3) * rounding * gradient.norm()


@pytest.mark.parametrize("units", [True, False])
def test_under_autocast_products_run_as_quatros_layers_do_and_the_loss_stays_float32(units, monkeypatch):
    monkeypatch.setattr("quatro.kernels.compute.cpu_has_bf16_units", lambda: units)
    hidden, weight, labels, _ = case(bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_cross_entropy(hidden, weight, labels)
        plain = head_cross_entropy(hidden, weight, labels)
    loss.backward()
    assert (loss.dtype, hidden.grad.dtype, weight.grad.dtype) == (torch.float32,) * 3
    expected, _, largest = oracle(hidden, weight, labels)
    assert plain == loss
    assert abs(loss - expected) <= (3 * 2 * 2**-8 * largest if units else bounds(hidden, weight, largest)[0])


def test_accumulated_parts_of_a_batch_give_the_whole_batchs_gradient():
    hidden, weight, labels, _ = case(tokens=30, bias=False)
    items = (labels != IGNORED).sum()
    whole = torch.autograd.grad(head_cross_entropy(hidden, weight, labels), hidden)[0]
    for part in (slice(0, 4), slice(4, 30)):
        head_cross_entropy(hidden[part], weight, labels[part], num_items=items).backward()
    torch.testing.assert_close(hidden.grad, whole, rtol=1e-6, atol=1e-8)
    by_number = head_cross_entropy(hidden, weight, labels, num_items=int(items))
    assert by_number == head_cross_entropy(hidden, weight, labels)


def test_a_loss_scale_beyond_float16_scales_the_gradient_and_a_graph_can_be_kept():
    hidden, weight, labels, _ = case(dtype=torch.float16, bias=False, ignored=0)
    loss = head_cross_entropy(hidden, weight, labels)
    (plain,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss * 2.0**17, hidden, retain_graph=True)
    torch.testing.assert_close(scaled.float() / 2**17, plain.float(), rtol=2e-3, atol=1e-6)
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], plain)


def test_without_any_label_the_mean_is_torchs_and_gradients_are_zero():
    hidden, weight, labels, _ = case(ignored=1.0, bias=False)
    labels[:] = IGNORED
    assert cross_entropy(linear(hidden, weight), labels).isnan()
    loss = head_cross_entropy(hidden, weight, labels)
    loss.backward()
    assert loss.isnan()
    assert not hidden.grad.any()
    assert head_cross_entropy(hidden, weight, labels, num_items=3) == 0


def test_tokens_without_a_label_never_meet_the_head():
    hidden, weight, labels, _ = case(bias=False)
    broken = hidden.detach().masked_fill((labels == IGNORED)[:, None], torch.nan).requires_grad_()
    loss = head_cross_entropy(broken, weight, labels, chunk=5)
    loss.backward()
    assert loss == head_cross_entropy(hidden, weight, labels, chunk=5)
    assert torch.equal(broken.grad[labels == IGNORED], torch.zeros_like(broken.grad[labels == IGNORED]))
    assert broken.grad[labels != IGNORED].abs().sum(1).min() > 0


def test_single_losses_need_no_gradient_and_sum_to_the_loss():
    hidden, weight, labels, bias = case(tokens=24)
    losses = head_losses(hidden.view(2, 12, -1), weight, labels.view(2, 12), bias, chunk=7)
    expected = cross_entropy(linear(hidden, weight, bias), labels, reduction="none").view(2, 12)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    total = head_cross_entropy(hidden, weight, labels, bias, num_items=1)
    torch.testing.assert_close(losses.sum(), total.detach(), rtol=1e-5, atol=0)
    with torch.no_grad():
        assert not head_cross_entropy(hidden, weight, labels, bias).requires_grad


class LargestSum(TorchDispatchMode):
    """The most bytes that results of operations held at one time."""

    def __init__(self):
        super().__init__()
        self.tensors, self.peak = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.tensors += [
            weakref.ref(part) for part in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(part)
        ]
        alive = [tensor for ref in self.tensors if (tensor := ref()) is not None]
        self.peak = max(
            self.peak, sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in alive}.values())
        )
        return result


def held_at_once(chunk, wanted):
    hidden, weight, labels, _ = case(tokens=256, inputs=8, outputs=4096, ignored=0, bias=False)
    hidden, weight = hidden.detach(), weight.detach()
    with LargestSum() as most:
        loss_by_chunks(hidden, weight, None, labels, torch.float32, chunk, wanted)
    return most.peak / (4096 * 4)


@pytest.mark.parametrize("wanted", [[True, False, False], [False] * 3])
def test_no_more_than_one_chunk_of_logits_is_alive(wanted):
    """In tokens' worth of logits; losses, gradients and indices are less than two more."""
    assert 16 <= held_at_once(16, wanted) < 18
    assert 256 <= held_at_once(256, wanted) < 258


def test_a_chunk_has_as_many_tokens_as_its_bytes_hold():
    assert chunk_tokens(32_000) * 32_000 * 4 <= 2**25 < (chunk_tokens(32_000) + 1) * 32_000 * 4
    assert chunk_tokens(2**20) == 128
    hidden, weight, labels, _ = case(bias=False)
    torch.testing.assert_close(head_cross_entropy(hidden, weight, labels), head_cross_entropy(hidden, weight, labels, chunk=1))


def test_what_does_not_fit_is_refused():
    hidden, weight, labels, _ = case(bias=False)
    with pytest.raises(ShapeError, match=r"got \(24, 16\), \(37, 16\) and \(23,\)"):
        head_cross_entropy(hidden, weight, labels[1:])
    with pytest.raises(ShapeError, match=r"got \(24, 16\), \(37, 15\)"):
        head_cross_entropy(hidden, weight[:, 1:], labels)
    for wrong in (37, -1):
        labels[3] = wrong
        with pytest.raises(InputError, match="an output of the head, 0 to 36; got"):
            head_losses(hidden, weight, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_passes_torchs_own_check(dtype):
    hidden, weight, labels, bias = case(dtype=dtype)
    torch.library.opcheck(head_loss, (hidden, weight.detach(), None, labels, torch.float32, 5, [True, False, False]))
    torch.library.opcheck(
        head_loss,
        (hidden.detach().float().requires_grad_(), weight.detach(), None, labels, torch.float32, 5, [True, False, False]),
    )
    torch.library.opcheck(head_loss, (hidden, weight, bias, labels, torch.float32, 5, [True] * 3))


def test_the_loss_compiles_as_one_graph_with_the_same_bits():
    hidden, weight, labels, bias = case()
    compiled = torch.compile(head_cross_entropy, fullgraph=True, backend="aot_eager")(hidden, weight, labels, bias)
    eager = head_cross_entropy(hidden, weight, labels, bias)
    assert torch.equal(compiled, eager)
    for found, expected in zip(
        torch.autograd.grad(compiled, (hidden, weight)), torch.autograd.grad(eager, (hidden, weight)), strict=True
    ):
        assert torch.equal(found, expected)
