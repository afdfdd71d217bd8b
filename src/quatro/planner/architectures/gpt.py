"""Decoders with LayerNorm and a feed-forward block of two products: GPT-2, GPT-J, GPT-NeoX, GPT-Neo, OPT, BLOOM."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from quatro.planner.architectures.rotary import rotary
from quatro.planner.fields import Fields
from quatro.planner.skeleton import Skeleton, Stack
from quatro.planner.tensors import Role, Tensor, linear, norm


def gpt2(fields: Fields) -> Skeleton:
    """GPT-2: learned positions, one matrix for queries, keys and values, the head tied to the embedding."""
    hidden, layers, heads, longest, vocabulary = _gpt_sizes(fields)
    inner, block = fields.count("n_inner", default=4 * hidden), "transformer.h.*"
    tensors = [
        *_embeddings("transformer", vocabulary, hidden, longest),
        *norm(f"{block}.ln_1", hidden, layers, True),
        *linear(f"{block}.attn.c_attn", 3 * hidden, hidden, layers, True),
        *linear(f"{block}.attn.c_proj", hidden, hidden, layers, True),
        *norm(f"{block}.ln_2", hidden, layers, True),
        *linear(f"{block}.mlp.c_fc", inner, hidden, layers, True),
        *linear(f"{block}.mlp.c_proj", hidden, inner, layers, True),
        *norm("transformer.ln_f", hidden, bias=True),
        *_head(fields, vocabulary, hidden, tied=True),
    ]
    stack = _stack(fields, layers, hidden, heads, inner, rotated=False, default="gelu_new")
    return Skeleton("gpt2", tuple(tensors), (stack,), vocabulary, hidden, longest)


def gptj(fields: Fields) -> Skeleton:
    """GPT-J: one norm a layer, attention and feed-forward side by side, a head of its own with a bias."""
    hidden, layers, heads, longest, vocabulary = _gpt_sizes(fields)
    inner, block = fields.count("n_inner", default=4 * hidden), "transformer.h.*"
    turned = fields.count("rotary_dim", default=hidden)
    tensors = [
        Tensor("transformer.wte.weight", (vocabulary, hidden), Role.EMBEDDING),
        *norm(f"{block}.ln_1", hidden, layers, True),
        *(
            t
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
            for t in linear(f"{block}.attn.{name}", hidden, hidden, layers)
        ),
        Tensor(f"{block}.attn.embed_positions", (longest, turned), Role.BUFFER, layers),
        *linear(f"{block}.mlp.fc_in", inner, hidden, layers, True),
        *linear(f"{block}.mlp.fc_out", hidden, inner, layers, True),
        *norm("transformer.ln_f", hidden, bias=True),
        *_head(fields, vocabulary, hidden, tied=False, bias=True),
    ]
    stack = _stack(fields, layers, hidden, heads, inner, norms=1, default="gelu_new", whole=True)
    return Skeleton("gptj", tuple(tensors), (stack,), vocabulary, hidden, longest)


def gpt_neo(fields: Fields) -> Skeleton:
    """GPT-Neo: no biases on queries, keys and values; masks as large as the square of the length."""
    hidden, layers, heads = fields.count("hidden_size"), fields.count("num_layers"), fields.count("num_heads")
    vocabulary, longest = fields.count("vocab_size"), fields.count("max_position_embeddings")
    inner, block = fields.count("intermediate_size", default=4 * hidden), "transformer.h.*"
    attention = f"{block}.attn.attention"
    tensors = [
        *_embeddings("transformer", vocabulary, hidden, longest),
        *norm(f"{block}.ln_1", hidden, layers, True),
        Tensor(f"{attention}.bias", (longest, longest), Role.BUFFER, layers, itemsize=1),
        *(t for name in ("k_proj", "v_proj", "q_proj") for t in linear(f"{attention}.{name}", hidden, hidden, layers)),
        *linear(f"{attention}.out_proj", hidden, hidden, layers, True),
        *norm(f"{block}.ln_2", hidden, layers, True),
        *linear(f"{block}.mlp.c_fc", inner, hidden, layers, True),
        *linear(f"{block}.mlp.c_proj", hidden, inner, layers, True),
        *norm("transformer.ln_f", hidden, bias=True),
        *_head(fields, vocabulary, hidden, tied=True),
    ]
    stack = _stack(fields, layers, hidden, heads, inner, rotated=False, default="gelu_new", whole=True)
    return Skeleton("gpt_neo", tuple(tensors), (stack,), vocabulary, hidden, longest)


def gpt_neox(fields: Fields) -> Skeleton:
    """GPT-NeoX and Pythia: rotary positions on a part of each head, a head of its own."""
    hidden, layers, heads = fields.count("hidden_size"), fields.count("num_hidden_layers"), fields.count("num_attention_heads")
    vocabulary, inner = fields.count("vocab_size"), fields.count("intermediate_size")
    longest, block = fields.count("max_position_embeddings", default=2048), "gpt_neox.layers.*"
    bias = fields.flag("attention_bias", True)
    tensors = [
        Tensor("gpt_neox.embed_in.weight", (vocabulary, hidden), Role.EMBEDDING),
        *norm(f"{block}.input_layernorm", hidden, layers, True),
        *norm(f"{block}.post_attention_layernorm", hidden, layers, True),
        *linear(f"{block}.attention.query_key_value", 3 * hidden, hidden, layers, bias),
        *linear(f"{block}.attention.dense", hidden, hidden, layers, bias),
        *linear(f"{block}.mlp.dense_h_to_4h", inner, hidden, layers, True),
        *linear(f"{block}.mlp.dense_4h_to_h", hidden, inner, layers, True),
        *norm("gpt_neox.final_layer_norm", hidden, bias=True),
        *_head(fields, vocabulary, hidden, tied=False),
        *rotary(fields, "gpt_neox", hidden // heads, 0.25),
    ]
    stack = _stack(fields, layers, hidden, heads, inner, default="gelu")
    stack = replace(stack, parallel=fields.flag("use_parallel_residual", True), joined=True)
    return Skeleton("gpt_neox", tuple(tensors), (stack,), vocabulary, hidden, longest)


def opt(fields: Fields) -> Skeleton:
    """OPT: learned positions with two rows more, embeddings that may be narrower than hidden states."""
    hidden, layers, heads = fields.count("hidden_size"), fields.count("num_hidden_layers"), fields.count("num_attention_heads")
    vocabulary, inner = fields.count("vocab_size"), fields.count("ffn_dim")
    longest, narrow = fields.count("max_position_embeddings"), fields.count("word_embed_proj_dim", default=hidden)
    bias, scaled = fields.flag("enable_bias", True), fields.flag("layer_norm_elementwise_affine", True)
    block = "model.decoder.layers.*"
    has_last_norm = fields.flag("do_layer_norm_before", True) and not fields.flag("_remove_final_layer_norm", False)
    norms = [("model.decoder.final_layer_norm", 1)] if has_last_norm else []
    norms += [(f"{block}.self_attn_layer_norm", layers), (f"{block}.final_layer_norm", layers)]
    tensors = [
        Tensor("model.decoder.embed_tokens.weight", (vocabulary, narrow), Role.EMBEDDING),
        Tensor("model.decoder.embed_positions.weight", (longest + 2, hidden), Role.EMBEDDING),
        *(t for name, count in norms if scaled for t in norm(name, hidden, count, True)),
        *(
            t
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
            for t in linear(f"{block}.self_attn.{name}", hidden, hidden, layers, bias)
        ),
        *linear(f"{block}.fc1", inner, hidden, layers, bias),
        *linear(f"{block}.fc2", hidden, inner, layers, bias),
        *_head(fields, vocabulary, narrow, tied=True),
    ]
    if narrow != hidden:
        tensors += [*linear("model.decoder.project_out", narrow, hidden), *linear("model.decoder.project_in", hidden, narrow)]
    stack = _stack(fields, layers, hidden, heads, inner, rotated=False, default="relu")
    return Skeleton("opt", tuple(tensors), (stack,), vocabulary, narrow, longest)


def bloom(fields: Fields) -> Skeleton:
    """BLOOM: ALiBi instead of positions, a norm after the embedding, the head tied to it."""
    hidden = fields.count("hidden_size", "n_embed")
    layers, heads = fields.count("n_layer", "num_hidden_layers"), fields.count("n_head", "num_attention_heads")
    vocabulary, block = fields.count("vocab_size"), "transformer.h.*"
    tensors = [
        Tensor("transformer.word_embeddings.weight", (vocabulary, hidden), Role.EMBEDDING),
        *norm("transformer.word_embeddings_layernorm", hidden, bias=True),
        *norm(f"{block}.input_layernorm", hidden, layers, True),
        *linear(f"{block}.self_attention.query_key_value", 3 * hidden, hidden, layers, True),
        *linear(f"{block}.self_attention.dense", hidden, hidden, layers, True),
        *norm(f"{block}.post_attention_layernorm", hidden, layers, True),
        *linear(f"{block}.mlp.dense_h_to_4h", 4 * hidden, hidden, layers, True),
        *linear(f"{block}.mlp.dense_4h_to_h", hidden, 4 * hidden, layers, True),
        *norm("transformer.ln_f", hidden, bias=True),
        *_head(fields, vocabulary, hidden, tied=True),
    ]
    stack = _stack(fields, layers, hidden, heads, 4 * hidden, rotated=False, default="gelu_new", whole=True)
    return Skeleton("bloom", tuple(tensors), (stack,), vocabulary, hidden, None)


MODELS: dict[str, Callable[[Fields], Skeleton]] = {
    "gpt2": gpt2,
    "gptj": gptj,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "bloom": bloom,
}


def _gpt_sizes(fields: Fields) -> tuple[int, int, int, int, int]:
    """hidden, layers, heads, longest, vocabulary under GPT-2's names."""
    return (
        fields.count("n_embd"),
        fields.count("n_layer"),
        fields.count("n_head"),
        fields.count("n_positions"),
        fields.count("vocab_size"),
    )


def _embeddings(prefix: str, vocabulary: int, hidden: int, longest: int) -> Iterator[Tensor]:
    yield Tensor(f"{prefix}.wte.weight", (vocabulary, hidden), Role.EMBEDDING)
    yield Tensor(f"{prefix}.wpe.weight", (longest, hidden), Role.EMBEDDING)


def _head(fields: Fields, vocabulary: int, hidden: int, tied: bool, bias: bool = False) -> Iterator[Tensor]:
    if not fields.flag("tie_word_embeddings", tied):
        yield from linear("lm_head", vocabulary, hidden, role=Role.HEAD)
    if bias:
        yield Tensor("lm_head.bias", (vocabulary,), Role.BIAS)


def _stack(
    fields: Fields,
    layers: int,
    hidden: int,
    heads: int,
    inner: int,
    default: str,
    norms: int = 2,
    rotated: bool = True,
    whole: bool = False,
) -> Stack:
    return Stack(
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=hidden // heads,
        keys=hidden,
        inner=inner,
        gated=False,
        activation=fields.text("activation_function", "hidden_act", default=default),
        norms=norms,
        shifted=True,
        whole_attention=whole,
        rotated=rotated,
    )
