"""Tiny models of many architectures. Feed-forward rows of 172 are a size that blocks of 64 do not divide."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

ONCE_IN_BFLOAT16 = 2**-9
"""Half a unit in the last place, relative: these models scale bfloat16 embeddings before anything widens them."""
IDS = torch.arange(20).view(2, 10) % 90 + 3
LM, MASKED, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"
VISION, SPEECH = "AutoModelForImageClassification", "AutoModelForSpeechSeq2Seq"

SMALL = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
WIDE = {**SMALL, "intermediate_size": 172}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 96, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 172, "d_kv": 16}
BART = {"vocab_size": 96, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 172, "decoder_ffn_dim": 172}  # fmt: skip
READS = {"max_position_embeddings": 64}
HEARS = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip
SEES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 172,
    "image_size": 32,
    "patch_size": 8,
}
DEEPSEEK = {"moe_intermediate_size": 96, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
            "num_key_value_heads": 4, "n_shared_experts": 1}  # fmt: skip


def text() -> dict[str, Tensor]:
    return {"input_ids": IDS}


def text_without_cache() -> dict[str, Any]:
    """RWKV's cache is written in place, which no gradient survives."""
    return {"input_ids": IDS, "use_cache": False}


def two_texts() -> dict[str, Tensor]:
    return {"input_ids": IDS, "decoder_input_ids": IDS}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def sound() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0)), "decoder_input_ids": IDS}


def image_and_text() -> dict[str, Tensor]:
    return {**text(), **image()}


def image_in_text() -> dict[str, Tensor]:
    """Two of the text's tokens stand for the image."""
    ids = IDS.clone()
    ids[:, :2] = 95
    return {"input_ids": ids, **image()}


def places() -> dict[str, Tensor]:
    corners = torch.tensor([3, 5, 40, 60]).expand(2, 10, 4)
    return {"input_ids": IDS, "bbox": corners}


@dataclass(frozen=True)
class Architecture:
    """One tiny model.

    labels: what it is trained on; None where its class computes no loss from labels.
    close: how far its outputs may be from the dense model's, relative; more where it rounds by itself.
    output: the name of what is compared.
    """

    config: str
    options: dict[str, Any]
    auto: str = LM
    inputs: Callable[[], dict[str, Tensor]] = text
    labels: Tensor | None = IDS
    close: float = 1e-5
    output: str = "logits"

    def made(self) -> Any:
        """The configuration."""
        return getattr(transformers, f"{self.config}Config")(**self.options)

    @property
    def kind(self) -> Any:
        """The class that makes and loads it."""
        return getattr(transformers, self.auto)


ARCHITECTURES = {
    "bigbird_pegasus": Architecture("BigBirdPegasus", {**BART, **READS, "attention_type": "original_full"}, SEQ2SEQ, two_texts),
    "blip_2": Architecture("Blip2", {"vision_config": SEES, "qformer_config": {**WIDE, "encoder_hidden_size": 64},
                                     "text_config": {"model_type": "opt", **SMALL, "ffn_dim": 172, "word_embed_proj_dim": 64}, "num_query_tokens": 2,
                                     "image_token_index": 95}, "Blip2ForConditionalGeneration", image_in_text),
    "bloom": Architecture("Bloom", {"vocab_size": 96, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "bridgetower": Architecture("BridgeTower", {**{key: WIDE[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")},
                                                "text_config": {**WIDE, "max_position_embeddings": 66},
                                                "vision_config": {key: SEES[key] for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")}},
                                "BridgeTowerForImageAndTextRetrieval", image_and_text, torch.tensor([0, 1])),
    "codegen": Architecture("CodeGen", {**GPT2, "rotary_dim": 8}),
    "deepseek_v3": Architecture("DeepseekV3", {**WIDE, **DEEPSEEK}),
    "deit": Architecture("DeiT", SEES, "DeiTForImageClassification", image, torch.tensor([0, 1])),
    "esm": Architecture("Esm", {**WIDE, "max_position_embeddings": 66, "pad_token_id": 1, "mask_token_id": 2}, MASKED),
    "gemma2": Architecture("Gemma2", {**WIDE, "num_key_value_heads": 2, "head_dim": 16}),
    "gemma3": Architecture("Gemma3Text", {**WIDE, "num_key_value_heads": 2, "head_dim": 16}),
    "gpt2": Architecture("GPT2", GPT2),
    "gpt_bigcode": Architecture("GPTBigCode", GPT2),
    "gpt_neo": Architecture("GPTNeo", {**READS, "vocab_size": 96, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 172,
                                       "attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": Architecture("GPTNeoX", WIDE),
    "gpt_neox_japanese": Architecture("GPTNeoXJapanese", {**SMALL, "intermediate_multiple_size": 3}),
    "gptj": Architecture("GPTJ", {**GPT2, "rotary_dim": 8}),
    "gpt_oss": Architecture("GptOss", {**WIDE, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "lilt": Architecture("Lilt", {**WIDE, "hidden_size": 96, "pad_token_id": 1}, "AutoModelForTokenClassification", places, IDS % 2),
    "llama": Architecture("Llama", WIDE),
    "longformer": Architecture("Longformer", {**WIDE, "max_position_embeddings": 70, "attention_window": [4, 4]}, MASKED),
    "longt5": Architecture("LongT5", {**T5, "local_radius": 4}, SEQ2SEQ, two_texts),
    "luke": Architecture("Luke", {**WIDE, "entity_vocab_size": 10, "entity_emb_size": 16}, MASKED),
    "m2m_100": Architecture("M2M100", {**BART, **READS}, SEQ2SEQ, two_texts, close=ONCE_IN_BFLOAT16),
    "mbart": Architecture("MBart", {**BART, **READS}, SEQ2SEQ, two_texts),
    "mistral": Architecture("Mistral", {**WIDE, "num_key_value_heads": 2}),
    "mixtral": Architecture("Mixtral", {**WIDE, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mt5": Architecture("MT5", T5, SEQ2SEQ, two_texts),
    "nllb_moe": Architecture("NllbMoe", {**BART, **READS, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}, SEQ2SEQ, two_texts,
                             close=ONCE_IN_BFLOAT16),
    "olmoe": Architecture("Olmoe", {**WIDE, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2}),
    "owlvit": Architecture("OwlViT", {"text_config": WIDE, "vision_config": SEES, "projection_dim": 64}, "AutoModelForZeroShotObjectDetection",
                           image_and_text, None),
    "opt": Architecture("OPT", {**SMALL, "ffn_dim": 172, "word_embed_proj_dim": 64}),
    "phi3": Architecture("Phi3", {**WIDE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "plbart": Architecture("PLBart", {**BART, **READS}, SEQ2SEQ, two_texts),
    "qwen2": Architecture("Qwen2", {**WIDE, "num_key_value_heads": 2}),
    "qwen3": Architecture("Qwen3", {**WIDE, "num_key_value_heads": 2, "head_dim": 16}),
    "qwen3_moe": Architecture("Qwen3Moe", {**WIDE, "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 172, "num_experts": 4,
                                           "num_experts_per_tok": 2}),
    "roberta": Architecture("Roberta", WIDE, MASKED),
    "roberta_prelayernorm": Architecture("RobertaPreLayerNorm", WIDE, MASKED),
    "rwkv": Architecture("Rwkv", {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64, "intermediate_size": 172,
                                  "context_length": 64}, inputs=text_without_cache),
    "smollm3": Architecture("SmolLM3", {**WIDE, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "switch_transformers": Architecture("SwitchTransformers", {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
                                                               "expert_capacity": 16}, SEQ2SEQ, two_texts),
    "t5": Architecture("T5", T5, SEQ2SEQ, two_texts),
    "vilt": Architecture("Vilt", {**WIDE, **SEES, "num_labels": 3}, "ViltForQuestionAnswering", image_and_text, torch.eye(3)[:2]),
    "vit": Architecture("ViT", SEES, VISION, image, torch.tensor([0, 1])),
    "whisper": Architecture("Whisper", {**BART, **HEARS}, SPEECH, sound),
    "xglm": Architecture("XGLM", {**READS, "vocab_size": 96, "d_model": 64, "ffn_dim": 172, "num_layers": 2, "attention_heads": 4}, close=ONCE_IN_BFLOAT16),
    "xlm_roberta": Architecture("XLMRoberta", WIDE, MASKED),
}  # fmt: skip

DROPPED = {"gptsan_japanese": "4.57.6", "mega": "4.57.6", "open_llama": "4.57.6", "vit_hybrid": "4.57.6"}
"""The last versions of transformers that had them."""
