"""Models with an encoder: RoBERTa, T5, Whisper."""

from collections.abc import Callable, Iterator

from quatro.planner.fields import Fields
from quatro.planner.skeleton import Skeleton, Stack
from quatro.planner.tensors import Role, Tensor, linear, norm


def roberta(fields: Fields) -> Skeleton:
    """RoBERTa and XLM-RoBERTa with their masked-language head: a product, a norm, and an output that may be tied."""
    hidden, layers, heads = fields.count("hidden_size"), fields.count("num_hidden_layers"), fields.count("num_attention_heads")
    vocabulary, inner = fields.count("vocab_size"), fields.count("intermediate_size")
    longest, kinds = fields.count("max_position_embeddings"), fields.count("type_vocab_size", default=2)
    start, block = f"{_ROOT}.embeddings", f"{_ROOT}.encoder.layer.*"
    tensors = [
        Tensor(f"{start}.word_embeddings.weight", (vocabulary, hidden), Role.EMBEDDING),
        Tensor(f"{start}.token_type_embeddings.weight", (kinds, hidden), Role.EMBEDDING),
        Tensor(f"{start}.position_embeddings.weight", (longest, hidden), Role.EMBEDDING),
        *(Tensor(f"{start}.{name}", (1, longest), Role.BUFFER, itemsize=8) for name in ("position_ids", "token_type_ids")),
        *norm(f"{start}.LayerNorm", hidden, bias=True),
        *(
            t
            for name in ("query", "key", "value")
            for t in linear(f"{block}.attention.self.{name}", hidden, hidden, layers, True)
        ),
        *linear(f"{block}.attention.output.dense", hidden, hidden, layers, True),
        *norm(f"{block}.attention.output.LayerNorm", hidden, layers, True),
        *linear(f"{block}.intermediate.dense", inner, hidden, layers, True),
        *linear(f"{block}.output.dense", hidden, inner, layers, True),
        *norm(f"{block}.output.LayerNorm", hidden, layers, True),
        *linear("lm_head.dense", hidden, hidden, bias=True),
        *norm("lm_head.layer_norm", hidden, bias=True),
        Tensor("lm_head.bias", (vocabulary,), Role.NORM),
    ]
    if not fields.flag("tie_word_embeddings", True):
        tensors += linear("lm_head.decoder", vocabulary, hidden, bias=True, role=Role.HEAD)
    stack = _stack(layers, hidden, heads, hidden // heads, inner, fields.text("hidden_act", default="gelu"))
    return Skeleton(fields.model_type, tuple(tensors), (stack,), vocabulary, hidden, longest, in_chunks=False)


_ROOT = "roberta"


def t5(fields: Fields) -> Skeleton:
    """T5 and mT5: relative positions in the first layer of each stack, a last product that stays in float32, ends that transformers ties
    whatever the configuration says."""
    hidden, heads, width = fields.count("d_model"), fields.count("num_heads"), fields.count("d_kv")
    inner, vocabulary = fields.count("d_ff"), fields.count("vocab_size")
    encoder, buckets = fields.count("num_layers"), fields.count("relative_attention_num_buckets", default=32)
    decoder = fields.count("num_decoder_layers", default=encoder)
    gated = fields.text("feed_forward_proj", default="gated-gelu" if fields.model_type == "mt5" else "relu").startswith(
        "gated-"
    )
    tensors = [Tensor("shared.weight", (vocabulary, hidden), Role.EMBEDDING)]
    for side, layers, attentions in (
        ("encoder", encoder, ["SelfAttention"]),
        ("decoder", decoder, ["SelfAttention", "EncDecAttention"]),
    ):
        block = f"{side}.block.*.layer.*"
        tensors += [
            Tensor(f"{block}.SelfAttention.relative_attention_bias.weight", (buckets, heads), Role.EMBEDDING),
            *(t for one in attentions for t in _t5_attention(f"{block}.{one}", hidden, heads * width, layers)),
            *_t5_feed_forward(f"{block}.DenseReluDense", hidden, inner, layers, gated),
            *norm(f"{block}.layer_norm", hidden, layers * (len(attentions) + 1)),
            *norm(f"{side}.final_layer_norm", hidden),
        ]
    act = fields.text("dense_act_fn", default="relu")
    stacks = tuple(
        Stack(
            n,
            hidden,
            heads,
            width,
            heads * width,
            inner,
            gated,
            act,
            norms,
            rotated=False,
            whole_attention=True,
            crossed=norms == 3,
        )
        for n, norms in ((encoder, 2), (decoder, 3))
    )
    return Skeleton(fields.model_type, tuple(tensors), stacks, vocabulary, hidden, None, in_chunks=False)


def _t5_attention(block: str, hidden: int, width: int, layers: int) -> Iterator[Tensor]:
    for name in ("q", "k", "v"):
        yield from linear(f"{block}.{name}", width, hidden, layers)
    yield from linear(f"{block}.o", hidden, width, layers)


def _t5_feed_forward(block: str, hidden: int, inner: int, layers: int, gated: bool) -> Iterator[Tensor]:
    for name in ("wi_0", "wi_1") if gated else ("wi",):
        yield from linear(f"{block}.{name}", inner, hidden, layers)
    yield from linear(f"{block}.wo", hidden, inner, layers, role=Role.WIDE)


def whisper(fields: Fields) -> Skeleton:
    """Whisper: two convolutions before the encoder, keys without a bias, the head tied to the decoder's embedding."""
    hidden, vocabulary, mels = fields.count("d_model"), fields.count("vocab_size"), fields.count("num_mel_bins")
    hears, speaks = fields.count("max_source_positions"), fields.count("max_target_positions")
    tensors = [
        Tensor("model.encoder.conv1.weight", (hidden, mels, 3), Role.NORM),
        Tensor("model.encoder.conv2.weight", (hidden, hidden, 3), Role.NORM),
        Tensor("model.encoder.conv.bias", (hidden,), Role.NORM, 2),
        Tensor("model.encoder.embed_positions.weight", (hears, hidden), Role.EMBEDDING),
        Tensor("model.decoder.embed_tokens.weight", (vocabulary, hidden), Role.EMBEDDING),
        Tensor("model.decoder.embed_positions.weight", (speaks, hidden), Role.EMBEDDING),
    ]
    stacks = []
    act = fields.text("activation_function", default="gelu")
    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        layers, heads = fields.count(f"{side}_layers"), fields.count(f"{side}_attention_heads")
        inner, block = fields.count(f"{side}_ffn_dim"), f"model.{side}.layers.*"
        for attention in attentions:
            tensors += _whisper_attention(f"{block}.{attention}", hidden, layers)
            tensors += norm(f"{block}.{attention}_layer_norm", hidden, layers, True)
        tensors += [
            *linear(f"{block}.fc1", inner, hidden, layers, True),
            *linear(f"{block}.fc2", hidden, inner, layers, True),
            *norm(f"{block}.final_layer_norm", hidden, layers, True),
            *norm(f"model.{side}.layer_norm", hidden, bias=True),
        ]
        stacks.append(_stack(layers, hidden, heads, hidden // heads, inner, act, crossed=side == "decoder"))
    if not fields.flag("tie_word_embeddings", True):
        tensors += linear("proj_out", vocabulary, hidden, role=Role.HEAD)
    return Skeleton("whisper", tuple(tensors), tuple(stacks), vocabulary, hidden, speaks, in_chunks=False)


def _whisper_attention(block: str, hidden: int, layers: int) -> Iterator[Tensor]:
    yield from linear(f"{block}.k_proj", hidden, hidden, layers)
    for name in ("v_proj", "q_proj", "out_proj"):
        yield from linear(f"{block}.{name}", hidden, hidden, layers, True)


MODELS: dict[str, Callable[[Fields], Skeleton]] = {
    "roberta": roberta,
    "xlm-roberta": roberta,
    "t5": t5,
    "mt5": t5,
    "whisper": whisper,
}


def _stack(layers: int, hidden: int, heads: int, head_dim: int, inner: int, activation: str, crossed: bool = False) -> Stack:
    return Stack(
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        keys=heads * head_dim,
        inner=inner,
        gated=False,
        activation=activation,
        norms=3 if crossed else 2,
        shifted=True,
        rotated=False,
        crossed=crossed,
    )
