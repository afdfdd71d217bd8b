"""The cross-entropy behind an output head, chunk by chunk: the logits of a long sequence are never all in memory.

The gradient of -log softmax is softmax - one-hot, so a chunk's logits become their own gradient where they lie, and backward has
nothing left to do but to scale. Source: Liger Kernel, arXiv 2410.10989, "FusedLinearCrossEntropy".
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quatro.format.errors import InputError, ShapeError
from quatro.kernels.compute import dense_linear, dense_linear_backward, product_dtypes
from quatro.kernels.products import in_given_dtypes

IGNORED = torch.nn.CrossEntropyLoss().ignore_index
"""The label of a token without a loss: torch's own."""

CHUNK_BYTES = 2**25
LEAST_TOKENS = 128
"""Every chunk reads the whole head: 64 tokens at a time take 1.2 to 1.6 times as long as 512, 32 tokens 2.4 times (docs/log.md)."""

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def head_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    num_items: Tensor | int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The cross-entropy of hidden @ weight^T + bias against labels that are shifted already: () in float32, float64 for float64.

    hidden (..., in) · weight (out, in) · labels int64 (...), -100 for no loss · bias (out,). num_items: what the sum is divided
    by; None makes it the mean. chunk: tokens whose logits exist at once; None as many as chunk_tokens says. Without any label the
    loss is NaN, as torch's is, and its gradient zero. Gradients flow to hidden, and to weight and bias where they are trained.
    Raises ShapeError for shapes that do not fit, InputError for a label the head has no output for.
    """
    tracked = torch.is_grad_enabled()
    wanted = [tracked and part is not None and part.requires_grad for part in (hidden, weight, bias)]
    total = _checked_loss(hidden, weight, labels, bias, chunk, wanted)[0]
    items = (labels != IGNORED).sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return (total / items.clamp(min=1)).masked_fill(items == 0, torch.nan)


def head_losses(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """The loss of every token, labels' shape, 0 where the label is -100; no gradients. Otherwise as head_cross_entropy."""
    with torch.no_grad():
        losses = _checked_loss(hidden, weight, labels, bias, chunk, [False] * 3)[1]
    return losses.view(labels.shape)


def chunk_tokens(vocabulary: int) -> int:
    """How many tokens' float32 logits exist at once."""
    return max(LEAST_TOKENS, CHUNK_BYTES // (vocabulary * torch.float32.itemsize))


def _checked_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk: int | None, wanted: list[bool]
) -> Found:
    if labels.shape != hidden.shape[:-1] or weight.shape[1:] != hidden.shape[-1:]:
        raise ShapeError(
            "a head takes hidden states (..., in), a weight (out, in) and labels (...), got "
            f"{tuple(hidden.shape)}, {tuple(weight.shape)} and {tuple(labels.shape)}"
        )
    _, compute = product_dtypes(hidden.dtype, hidden.device.type, "auto")
    compute = torch.float64 if hidden.dtype == torch.float64 else compute
    rows = hidden.reshape(-1, hidden.shape[-1])
    found: Found = head_loss(rows, weight, bias, labels.reshape(-1), compute, chunk or chunk_tokens(weight.shape[0]), wanted)
    return found


@torch.library.custom_op("quatro::head_loss", mutates_args=())
def head_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    compute_dtype: torch.dtype,
    chunk: int,
    wanted: list[bool],
) -> Found:
    """Summed loss (), losses (tokens,), and the sum's gradients to hidden, weight and bias, each empty if it is not wanted.

    hidden (tokens, in) · labels (tokens,). Products run in compute_dtype; logits, losses and their sums in float32 or float64.
    """
    with in_given_dtypes(hidden.device.type):
        return loss_by_chunks(hidden, weight, bias, labels, compute_dtype, chunk, wanted)


@head_loss.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    compute_dtype: torch.dtype,
    chunk: int,
    wanted: list[bool],
) -> Found:
    losses = hidden.new_empty(labels.shape, dtype=_wide(compute_dtype))
    gradients = [
        part.new_empty(part.shape if needed else 0)
        for part, needed in zip((hidden, weight, hidden if bias is None else bias), wanted, strict=True)
    ]
    return losses.new_empty(()), losses, gradients[0], gradients[1], gradients[2]


def loss_by_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    compute_dtype: torch.dtype,
    chunk: int,
    wanted: list[bool],
) -> Found:
    """What head_loss computes. Tokens without a label never meet the head."""
    dtype = _wide(compute_dtype)
    losses = hidden.new_zeros(labels.shape, dtype=dtype)
    to_hidden = hidden.new_zeros(hidden.shape if wanted[0] else 0)
    to_weight = weight.new_zeros(weight.shape if wanted[1] else 0, dtype=dtype)
    to_bias = weight.new_zeros(weight.shape[0] if wanted[2] else 0, dtype=dtype)

    def add_chunk(tokens: Tensor) -> None:
        inputs, targets = hidden[tokens], labels[tokens, None]
        logits = dense_linear(inputs, weight, bias, dtype, compute_dtype)
        losses[tokens], sums = _exponentiate_(logits, targets)
        if any(wanted):
            _subtract_one_hot_(logits.div_(sums), targets)
        if wanted[0]:
            to_hidden[tokens] = dense_linear_backward(logits, weight, hidden.dtype, compute_dtype)
        if wanted[1]:
            to_weight.addmm_(logits.T, inputs.to(dtype))
        if wanted[2]:
            to_bias.add_(logits.sum(0))

    for tokens in _learned_tokens(labels, weight.shape[0], chunk):
        add_chunk(tokens)
    bias_dtype = hidden.dtype if bias is None else bias.dtype
    return losses.sum(), losses, to_hidden, to_weight.to(weight.dtype), to_bias.to(bias_dtype)


def _learned_tokens(labels: Tensor, outputs: int, chunk: int) -> Sequence[Tensor]:
    """Where there are labels, in chunks. Raises InputError for a label that is no output of the head."""
    tokens = (labels != IGNORED).nonzero().squeeze(1)
    if not len(tokens):
        return ()
    least, most = (int(label) for label in labels[tokens].aminmax())
    if least < 0 or most >= outputs:
        raise InputError(f"labels are {IGNORED} or an output of the head, 0 to {outputs - 1}; got {least} to {most}")
    return torch.split(tokens, chunk)


def _exponentiate_(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """In place: logits (n, out) -> exp(logits - largest). Returns the losses (n,), and the sums (n, 1) that make it a softmax."""
    picked, largest = logits.gather(1, targets), logits.amax(1, keepdim=True)
    sums = logits.sub_(largest).exp_().sum(1, keepdim=True)
    return (sums.log() - (picked - largest)).squeeze(1), sums


def _subtract_one_hot_(softmax: Tensor, targets: Tensor) -> None:
    softmax.scatter_add_(1, targets, softmax.new_full((), -1.0).expand_as(targets))


def _wide(compute_dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(compute_dtype, torch.float32)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
    _, losses, *gradients = output
    ctx.mark_non_differentiable(losses, *gradients)
    ctx.save_for_backward(*gradients)


@once_differentiable
def _scaled_gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """The stored gradients times what arrives, multiplied in float32, where a loss scale of 2^16 is a number."""
    to_hidden, to_weight, to_bias = (
        (part.to(grad.dtype) * grad).to(part.dtype) if needed else None
        for part, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
    )
    return to_hidden, to_weight, to_bias, None, None, None, None


head_loss.register_autograd(_scaled_gradients, setup_context=_save_gradients)
