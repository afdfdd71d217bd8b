"""The models that whole-model benchmarks share: Llamas of random weights in TinyLlama's proportions, and the ways to load them."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar
from workers import PATIENCE

import quatro

VOCABULARY = 32000

disable_progress_bar()
logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # at import it misses an optional kernel that is downloaded at run time


def save_random_llama(directory: Path, layers: int, hidden: int) -> LlamaConfig:
    """Write a checkpoint of random bfloat16 weights. 22 layers of 2048 are TinyLlama's 1.1 billion; the head is not tied."""
    torch.manual_seed(0)
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 8),
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,  # nothing ends an answer early
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    return config


def add_common_options(parser: argparse.ArgumentParser, layers: int) -> None:
    parser.add_argument("--layers", type=int, default=layers)
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 256; TinyLlama's proportions follow from it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that may go into waiting for a quiet machine")
    parser.add_argument("--directory", help=argparse.SUPPRESS)


def token_ids(count: int) -> Tensor:
    """(1, count) random ids, the same in every process."""
    return torch.randint(1, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(count))


def dense_model(directory: str, dtype: torch.dtype, round_trip: Callable[[Tensor], Tensor] | None = None) -> LlamaForCausalLM:
    """The dense model; its linear layers hold what `round_trip` (default: quatro's nf4 with double quantization) leaves of them."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data.copy_((round_trip or through_nf4)(module.weight.data))
    return model


def bitsandbytes_model(directory: str, dtype: torch.dtype) -> PreTrainedModel:
    """nf4 with double quantization; dtype is that of the products and of what is not quantized."""
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=config, dtype=dtype)


def quatro_model(directory: str) -> PreTrainedModel:
    """nf4 with double quantization, everything else as quatro chooses."""
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=quatro.QuatroConfig())


def through_nf4(weight: Tensor) -> Tensor:
    """What nf4 with double quantization keeps of a weight."""
    return quatro.quantize(weight, quant_type="nf4", block_size=64, double_quant=True).dequantize()


def through_q4_0(weight: Tensor) -> Tensor:
    """What llama.cpp's Q4_0 keeps of a weight: blocks of 32, 16 steps of one float16 scale, the largest value at -8."""
    blocks = weight.float().view(-1, 32)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    steps = (blocks / scale + 8.5).nan_to_num(8.0).floor().clamp(0, 15) - 8
    return (steps * scale.half().float()).view_as(weight)
