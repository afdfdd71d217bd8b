"""What a layer keeps between its forward and its backward pass: bytes a token, by what autograd saves.

Hidden states, norms and their results are float32 in quatro; products come out in the dtype that they are computed in (c bytes).
Source: the saved tensors of quatro.nn.lora and of transformers' layers, which tests/planner compares with these formulas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quatro.planner.adapters import Factors
from quatro.planner.settings import Settings
from quatro.planner.skeleton import Stack

FLOAT32 = 4
READ_FIRST_NORM = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "q", "k", "v", "query", "key", "value"}
)
READ_SECOND_NORM = frozenset(
    {"gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc_in", "fc1", "dense_h_to_4h", "wi", "wi_0", "wi_1", "dense"}
)
READ_INNER = frozenset({"down_proj", "c_proj", "fc_out", "fc2", "dense_4h_to_h", "wo", "dense"})
READ_ATTENTION = frozenset({"o_proj", "out_proj", "c_proj", "dense", "o"})
SAVED_BY = {"silu": 1, "gelu": 1, "gelu_pytorch_tanh": 1, "relu": 0, "quick_gelu": 2, "gelu_new": 4, "gelu_fast": 4}
"""Tensors that an activation keeps besides its result; those written in Python keep their parts."""
MOST_SAVED = 4


@dataclass(frozen=True)
class Kept:
    """bytes of one layer for the whole batch. again: whether checkpointing that keeps products computes it again."""

    what: str
    bytes: int
    again: bool = True


def kept_by_layer(stack: Stack, settings: Settings, factors: Sequence[Factors]) -> list[Kept]:
    """Everything that one layer keeps without checkpointing, and also (first) its input."""
    adapted = {one.name for one in factors} if settings.method != "full" else _everything()
    return [
        *_norms(stack, settings, adapted),
        *_attention(stack, settings, adapted),
        *_feed_forward(stack, settings, adapted),
        *_adapters(stack, settings, factors),
    ]


def layer_input(stack: Stack, settings: Settings) -> int:
    """Bytes of what a checkpoint keeps of a layer in any case."""
    return FLOAT32 * settings.tokens * stack.hidden


def products(stack: Stack, settings: Settings) -> int:
    """Bytes of the results that checkpointing with kept products holds of a layer: of all products, and of its attention."""
    attention = 2 if stack.crossed else 1
    widths = attention * (stack.queries + 2 * stack.keys + stack.hidden) + stack.hidden
    widths += stack.inner * (2 if stack.gated else 1)
    c, tokens = settings.compute_bytes, settings.tokens
    return c * tokens * (widths + attention * stack.queries) + attention * FLOAT32 * tokens * stack.heads


def in_passing(stack: Stack, settings: Settings) -> int:
    """Bytes of gradients while a layer's feed-forward block goes backward: of its inner results, and of hidden states."""
    inner = (3 if stack.gated else 2) * stack.inner
    return settings.tokens * (settings.compute_bytes * inner + 2 * FLOAT32 * stack.hidden)


def _everything() -> set[str]:
    return set(READ_FIRST_NORM | READ_SECOND_NORM | READ_INNER | READ_ATTENTION)


def _norms(stack: Stack, settings: Settings, adapted: set[str]) -> Iterator[Kept]:
    rows, small = settings.tokens * stack.hidden, settings.tokens * (2 if stack.shifted else 1)
    inputs = 1 if stack.parallel else stack.norms
    yield Kept("inputs of norms", FLOAT32 * (inputs * rows + stack.norms * small))
    readers = [READ_FIRST_NORM, READ_SECOND_NORM] if stack.norms > 1 else [READ_FIRST_NORM | READ_SECOND_NORM]
    read = sum(bool(adapted & names) for names in readers) + (stack.crossed and bool(adapted & READ_FIRST_NORM))
    yield Kept("results of norms", FLOAT32 * read * rows)
    if stack.norm_head:
        heads = stack.heads + stack.keys // stack.head_dim
        yield Kept("norms of heads", FLOAT32 * settings.tokens * (stack.queries + stack.keys + heads))


def _attention(stack: Stack, settings: Settings, adapted: set[str]) -> Iterator[Kept]:
    c, tokens, times = settings.compute_bytes, settings.tokens, 2 if stack.crossed else 1
    yield Kept("queries, keys and values", times * c * tokens * (stack.queries + 2 * stack.keys))
    if stack.joined and stack.rotated:  # values are a view of the product, which stays; the result is copied into rows
        yield Kept("product that is cut in three", c * tokens * (stack.queries + stack.keys))
        yield Kept("result of attention, in rows", c * tokens * stack.queries)
    yield Kept("result of attention", times * c * tokens * stack.queries, again=False)
    if stack.whole_attention:
        cast = 0 if c == FLOAT32 else c
        yield Kept("scores of attention", times * (FLOAT32 + cast + c) * tokens * stack.heads * settings.length)
    else:
        yield Kept("sums of attention", times * FLOAT32 * tokens * stack.heads, again=False)


def _feed_forward(stack: Stack, settings: Settings, adapted: set[str]) -> Iterator[Kept]:
    rows = settings.compute_bytes * settings.tokens * stack.inner
    saved = SAVED_BY.get(stack.activation, MOST_SAVED)
    result = bool(adapted & READ_INNER)
    if stack.gated:
        yield Kept("gate, up and activation", rows * (2 + saved))
        yield Kept("their product", rows * result)
    else:
        yield Kept("inside of the activation", rows * saved)
        yield Kept("result of the activation", rows * (result or saved == 0))


def _adapters(stack: Stack, settings: Settings, factors: Sequence[Factors]) -> Iterator[Kept]:
    """u of every adapted product, a row of r a token; a byte of dropout for each of its inputs."""
    if settings.method == "full":
        return
    here = [one for one in factors if one.count >= stack.layers]
    through = stack.experts_per_token
    rows = settings.tokens * sum(one.r * (through if one.stacked > 1 else 1) * _each(one, stack) for one in here)
    yield Kept("low-rank rows of adapters", settings.compute_bytes * rows)
    if settings.dropout:
        inputs = sum(one.inputs * _each(one, stack) for one in here if one.stacked == 1)
        yield Kept("masks of dropout", settings.tokens * inputs)
    if (
        settings.method == "lora" and settings.compute_bytes != FLOAT32
    ):  # each adapter has its own copy in the dtype of products
        inputs = sum(one.inputs * _each(one, stack) for one in here if one.stacked == 1)
        yield Kept("inputs of adapters", settings.compute_bytes * settings.tokens * inputs)


def _each(one: Factors, stack: Stack) -> int:
    """How many of these a layer has."""
    return max(1, one.count // max(stack.layers, 1)) if one.count <= 3 * stack.layers else 1
