"""Published models by name, so that a plan needs no file. Sources: the config.json of each checkpoint, and the papers named."""

from collections.abc import Mapping
from typing import Any

_LLAMA = {"model_type": "llama", "vocab_size": 32000, "dtype": "float16", "tie_word_embeddings": False}


def _llama(hidden: int, inner: int, layers: int, heads: int, longest: int = 2048, **others: Any) -> dict[str, Any]:
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**_LLAMA, **shape, "max_position_embeddings": longest, **others}


KNOWN: dict[str, Mapping[str, Any]] = {
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-33b": _llama(6656, 17920, 60, 52),
    "llama-65b": _llama(8192, 22016, 80, 64),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 4096),
    "llama-2-13b": _llama(5120, 13824, 40, 40, 4096),
    "llama-2-70b": _llama(8192, 28672, 80, 64, 4096, num_key_value_heads=8),
    "llama-3-8b": _llama(4096, 14336, 32, 32, 8192, num_key_value_heads=8, vocab_size=128256, dtype="bfloat16"),
    "llama-3-70b": _llama(8192, 28672, 80, 64, 8192, num_key_value_heads=8, vocab_size=128256, dtype="bfloat16"),
    "tinyllama-1.1b": _llama(2048, 5632, 22, 32, num_key_value_heads=4, dtype="bfloat16"),
    "mistral-7b": {
        **_llama(4096, 14336, 32, 32, 32768, num_key_value_heads=8, dtype="bfloat16"),
        "model_type": "mistral",
    },
    "gpt-j-6b": {
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_positions": 2048,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
        "dtype": "float32",
    },
}
"""LLaMA: arXiv 2302.13971, 2307.09288; GPT-J: EleutherAI's config.json, whose checkpoint is float32."""
