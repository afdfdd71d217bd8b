"""Llama and what descends from it: RMSNorm, rotary positions, a gated feed-forward block, grouped keys and values."""

from collections.abc import Iterator
from dataclasses import dataclass

from quatro.planner.architectures.rotary import rotary, rotary_by_kind
from quatro.planner.fields import Fields
from quatro.planner.skeleton import Skeleton, Stack
from quatro.planner.tensors import Role, Tensor, linear, norm

BLOCK = "model.layers.*"


@dataclass(frozen=True)
class Variant:
    """How a descendant differs. tied: whether embedding and head are one where the configuration says nothing."""

    tied: bool = False
    attention_bias: bool | None = None
    """None: as attention_bias in the configuration says, for all four; True: queries, keys and values only."""
    head_norms: str = ""
    """"head": queries and keys have norms of a head's size; "whole": of all heads together."""
    four_norms: bool = False
    joined: bool = False
    """Queries, keys and values are one matrix, gate and up another."""
    experts: str = ""
    """The field that says how many; empty where there are none."""
    sinks: bool = False
    scaled_embedding: bool = False
    kinds_of_rotation: bool = False
    own_loss: bool = False
    head_dim: int | None = None
    key_heads: int | None = None


VARIANTS = {
    "llama": Variant(),
    "mistral": Variant(attention_bias=False),
    "qwen2": Variant(attention_bias=True),
    "qwen3": Variant(head_norms="head", head_dim=128),
    "smollm3": Variant(tied=True),
    "phi3": Variant(attention_bias=False, joined=True),
    "gemma2": Variant(tied=True, four_norms=True, scaled_embedding=True, own_loss=True, head_dim=256),
    "gemma3_text": Variant(
        tied=True, four_norms=True, head_norms="head", scaled_embedding=True, kinds_of_rotation=True, head_dim=256
    ),
    "mixtral": Variant(attention_bias=False, experts="num_local_experts", own_loss=True, key_heads=8),
    "qwen3_moe": Variant(head_norms="head", experts="num_experts", own_loss=True),
    "olmoe": Variant(head_norms="whole", experts="num_experts", own_loss=True),
    "gpt_oss": Variant(experts="num_local_experts", sinks=True, own_loss=True, head_dim=64),
}


@dataclass(frozen=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.key_heads * self.head_dim


def skeleton(fields: Fields) -> Skeleton:
    """Of any model type in VARIANTS."""
    variant = VARIANTS[fields.model_type]
    sizes = _sizes(fields, variant)
    tensors = (
        *_ends(fields, variant, sizes),
        *_attention(fields, variant, sizes),
        *_norms(variant, sizes),
        *_feed_forward(fields, variant, sizes),
    )
    in_chunks = not variant.own_loss or not _bends_its_loss(fields, variant)
    stacks = tuple(_stacks(fields, variant, sizes))
    longest = fields.count("max_position_embeddings", default=2048)
    return Skeleton(fields.model_type, tensors, stacks, sizes.vocabulary, sizes.hidden, longest, in_chunks)


def _sizes(fields: Fields, variant: Variant) -> _Sizes:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    return _Sizes(
        hidden=hidden,
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        key_heads=fields.count("num_key_value_heads", default=variant.key_heads or heads),
        head_dim=fields.count("head_dim", default=variant.head_dim or max(1, hidden // heads)),
        vocabulary=fields.count("vocab_size"),
    )


def _ends(fields: Fields, variant: Variant, sizes: _Sizes) -> Iterator[Tensor]:
    yield Tensor("model.embed_tokens.weight", (sizes.vocabulary, sizes.hidden), Role.EMBEDDING)
    if variant.scaled_embedding:
        yield Tensor("model.embed_tokens.embed_scale", (1,), Role.BUFFER, itemsize=0)
    yield from norm("model.norm", sizes.hidden)
    if not fields.flag("tie_word_embeddings", variant.tied):
        yield from linear("lm_head", sizes.vocabulary, sizes.hidden, role=Role.HEAD)
    if variant.kinds_of_rotation:
        yield from rotary_by_kind(fields, "model", sizes.head_dim)
    else:
        yield from rotary(fields, "model", sizes.head_dim)


def _attention(fields: Fields, variant: Variant, sizes: _Sizes) -> Iterator[Tensor]:
    block, n = f"{BLOCK}.self_attn", sizes.layers
    stated = fields.flag("attention_bias", variant.sinks)
    bias = stated if variant.attention_bias is None else variant.attention_bias
    if variant.joined:
        yield from linear(f"{block}.qkv_proj", sizes.queries + 2 * sizes.keys, sizes.hidden, n, bias)
    else:
        for name, width in (("q_proj", sizes.queries), ("k_proj", sizes.keys), ("v_proj", sizes.keys)):
            yield from linear(f"{block}.{name}", width, sizes.hidden, n, bias)
    yield from linear(f"{block}.o_proj", sizes.hidden, sizes.queries, n, bias and variant.attention_bias is None)
    if variant.sinks:
        yield Tensor(f"{block}.sinks", (sizes.heads,), Role.NORM, n)
    if variant.head_norms:
        whole = variant.head_norms == "whole"
        yield from norm(f"{block}.q_norm", sizes.queries if whole else sizes.head_dim, n)
        yield from norm(f"{block}.k_norm", sizes.keys if whole else sizes.head_dim, n)


def _norms(variant: Variant, sizes: _Sizes) -> Iterator[Tensor]:
    names = ["input_layernorm", "post_attention_layernorm"]
    if variant.four_norms:
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for name in names:
        yield from norm(f"{BLOCK}.{name}", sizes.hidden, sizes.layers)


def _feed_forward(fields: Fields, variant: Variant, sizes: _Sizes) -> Iterator[Tensor]:
    sparse = _sparse_layers(fields, variant, sizes.layers)
    if sparse:
        yield from _experts(fields, variant, sizes.hidden, sparse)
    if sparse < sizes.layers:
        yield from _dense_block(fields, variant, sizes.hidden, sizes.layers - sparse)


def _dense_block(fields: Fields, variant: Variant, hidden: int, layers: int) -> Iterator[Tensor]:
    block, inner, bias = f"{BLOCK}.mlp", fields.count("intermediate_size"), fields.flag("mlp_bias", False)
    if variant.joined:
        yield from linear(f"{block}.gate_up_proj", 2 * inner, hidden, layers)
    else:
        yield from linear(f"{block}.gate_proj", inner, hidden, layers, bias)
        yield from linear(f"{block}.up_proj", inner, hidden, layers, bias)
    yield from linear(f"{block}.down_proj", hidden, inner, layers, bias)


def _experts(fields: Fields, variant: Variant, hidden: int, layers: int) -> Iterator[Tensor]:
    count, inner = _expert_count(fields, variant), fields.count("moe_intermediate_size", "intermediate_size")
    router = f"{BLOCK}.mlp.{'router' if variant.sinks else 'gate'}"
    yield Tensor(f"{router}.weight", (count, hidden), Role.NORM, layers)
    if variant.sinks:
        yield Tensor(f"{router}.bias", (count,), Role.NORM, layers)
    for name, outputs, inputs in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        yield Tensor(f"{BLOCK}.mlp.experts.{name}", (count, outputs, inputs), Role.LINEAR, layers)
        if variant.sinks:
            yield Tensor(f"{BLOCK}.mlp.experts.{name}_bias", (count, outputs), Role.BIAS, layers)


def _expert_count(fields: Fields, variant: Variant) -> int:
    """Under either of the two names that configurations have for it."""
    return fields.count(variant.experts, "num_experts", "num_local_experts")


def _sparse_layers(fields: Fields, variant: Variant, layers: int) -> int:
    if not variant.experts:
        return 0
    step, dense = fields.count("decoder_sparse_step", default=1), {int(word) for word in fields.words("mlp_only_layers")}
    return sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers))


def _stacks(fields: Fields, variant: Variant, sizes: _Sizes) -> Iterator[Stack]:
    sparse = _sparse_layers(fields, variant, sizes.layers)
    for layers, experts in ((sizes.layers - sparse, 1), (sparse, fields.count("num_experts_per_tok", default=2))):
        if not layers:
            continue
        inner = (
            fields.count("moe_intermediate_size", "intermediate_size")
            if layers == sparse
            else fields.count("intermediate_size")
        )
        yield Stack(
            layers=layers,
            hidden=sizes.hidden,
            heads=sizes.heads,
            head_dim=sizes.head_dim,
            keys=sizes.keys,
            inner=inner * experts,
            gated=True,
            activation=fields.text("hidden_activation", "hidden_act", default="silu"),
            norms=4 if variant.four_norms else 2,
            norm_head=bool(variant.head_norms),
            whole_attention=variant.sinks or (variant.four_norms and _caps(fields, "attn_logit_softcapping")),
            joined=variant.joined,
            experts_per_token=experts,
        )


def _bends_its_loss(fields: Fields, variant: Variant) -> bool:
    """Whether the loss is more than the head's cross-entropy: a cap on logits, or one for the router."""
    if variant.experts:
        return fields.flag("output_router_logits", False)
    return _caps(fields, "final_logit_softcapping")


def _caps(fields: Fields, name: str) -> bool:
    """Whether a number is given; Gemma 2 caps where its configuration says nothing."""
    return fields.config.get(name, 1.0 if fields.model_type == "gemma2" else None) is not None
