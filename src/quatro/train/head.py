"""May a model's loss be taken below its head, so that whole logits never exist? Asked of the model before a run relies on it.

A forward hook takes what the head would multiply and leaves it nothing: the loss is then computed in chunks. All else runs as
ever, in the model's own forward: adapters, activation checkpointing, packed rows, autocast.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quatro.nn.cross_entropy import IGNORED, head_cross_entropy, head_losses
from quatro.nn.dense import DenseLinear

LARGE = 60.0
"""A logit that a soft cap would bend beyond doubt; Gemma 2 caps at 30."""
ROUNDING = 1e-5
"""What float32 may do to a loss of some ten nats."""


@dataclass(frozen=True)
class Head:
    """A model's output layer. Where `refusal` has nothing to say, the losses here are the model's own."""

    layer: nn.Linear

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], num_items: Tensor | int | None = None) -> Tensor:
        """The loss () of inputs with labels (batch, length): the sum over learned tokens by num_items, or their mean."""
        hidden, targets = self._below(model, inputs)
        return head_cross_entropy(hidden, self.layer.weight, targets, self.layer.bias, num_items)

    def row_losses(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Of each row (sum of -log p over learned tokens, their number), float32 (batch, 2), without gradients."""
        hidden, targets = self._below(model, inputs)
        losses = head_losses(hidden, self.layer.weight, targets, self.layer.bias)
        return torch.stack([losses.sum(1), (targets != IGNORED).sum(1).float()], dim=1)

    def _below(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden states (batch, length, in), and of each token the label of the next (batch, length)."""
        with _sees(self.layer, lambda hidden: hidden[..., :0, :]) as seen:
            model(**{name: value for name, value in inputs.items() if name != "labels"})
        (hidden,) = seen
        return hidden, nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]


def refusal(model: nn.Module, counts_items: bool) -> str | None:
    """Why the loss must be computed on whole logits, or None. counts_items: the model's loss takes num_items_in_batch."""
    layer = model.get_output_embeddings()
    if type(layer) not in (nn.Linear, DenseLinear):
        return f"the model's head is {type(layer).__name__}, not a plain linear layer"
    was_training = model.training
    model.eval()
    try:
        return _disproof(model, Head(layer), counts_items)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"a probe without logits failed ({' '.join(str(error).split())[:200]})"
    finally:
        model.train(was_training)


@torch.no_grad()
def _disproof(model: nn.Module, head: Head, counts_items: bool) -> str | None:
    """How the two losses of a probe differ where the head sees zeros (is anything added?) and large numbers (are they bent?)."""
    inputs = _probe(model)
    hidden, targets = head._below(model, inputs)
    if hidden.shape[:-1] != targets.shape:
        return f"the model's head sees {tuple(hidden.shape[:-1])} tokens where the labels are {tuple(targets.shape)}"
    options = {"num_items_in_batch": torch.tensor(2 * targets.numel())} if counts_items else {}
    largest = float(head.layer(hidden).abs().max())
    for scale in (0.0, LARGE / max(largest, 1e-6)):
        with _sees(head.layer, lambda hidden, scale=scale: hidden * scale):
            own = float(model(**inputs, **options)[0])
        below = float(head_cross_entropy(hidden * scale, head.layer.weight, targets, head.layer.bias, *options.values()))
        if not abs(own - below) <= _tolerance(head.layer(hidden * scale), head.layer.in_features):
            return f"the model's loss is not the cross-entropy behind its head alone: a probe's is {own:.4f}, not {below:.4f}"
    return None


@contextmanager
def _sees(layer: nn.Linear, instead: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Inside, the layer multiplies instead(x) when it is given x; each x is put on the list."""
    seen: list[Tensor] = []

    def exchange(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        seen.append(args[0])
        return (instead(args[0]),)

    hook = layer.register_forward_pre_hook(exchange)
    try:
        yield seen
    finally:
        hook.remove()


def _probe(model: nn.Module) -> dict[str, Tensor]:
    """Random tokens and random labels, a few of them without a loss; torch's own generator is left alone."""
    vocabulary = min(model.get_input_embeddings().weight.shape[0], model.get_output_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(0, vocabulary, (2, 2, 8), generator=generator)
    labels[0, 3:5] = IGNORED
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "labels": labels.to(device)}


def _tolerance(logits: Tensor, inputs: int) -> float:
    """A loss moves by at most twice what a logit moves: docs/numerics.md, "The loss below the head"."""
    rounding = torch.finfo(logits.dtype).eps if logits.dtype.itemsize == 2 else 0.0
    product = 8 * inputs**0.5 * 2**-24
    return ROUNDING + 2 * (rounding + product) * float(logits.abs().max())
