"""Models that fit into a blink: a byte-level tokenizer, a random Llama, and one that says what it is told to."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN, PAD, END = "<|begin|>", "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WINDOW = 192


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte: every character beyond ASCII is spread over several tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [BEGIN, PAD, END, *ROLES]
    core = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate([*special, *letters])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BEGIN, pad_token=PAD, eos_token=END, additional_special_tokens=list(ROLES)
    )
    tokenizer.chat_template = template
    return tokenizer


def config(tokenizer: PreTrainedTokenizerFast, hidden: int = 64, window: int = WINDOW) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=window,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def random_llama(tokenizer: PreTrainedTokenizerFast, hidden: int = 64, seed: int = 0, window: int = WINDOW) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(tokenizer, hidden, window)).eval()


class Scripted(LlamaForCausalLM):
    """Says a text to each prompt, byte by byte, and then its end token, again and again."""

    script: list[int]
    calls = 0
    failure: BaseException | None = None

    def forward(self, input_ids, **kwargs):
        if self.failure is not None and self.calls == 3:
            raise self.failure
        cache = kwargs.get("past_key_values")
        self.calls = self.calls + 1 if cache is not None and cache.get_seq_length() else 0
        out = super().forward(input_ids=input_ids, **kwargs)
        said = self.script[self.calls] if self.calls < len(self.script) else self.config.eos_token_id
        out.logits = torch.full_like(out.logits, -1.0)
        out.logits[..., said] = 1.0
        return out


def scripted(tokenizer: PreTrainedTokenizerFast, text: str) -> Scripted:
    torch.manual_seed(0)
    model = Scripted(config(tokenizer)).eval()
    model.script = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return model


def saved(directory: Path, **options: int) -> Path:
    """A model directory as a person would have one."""
    tokenizer = byte_tokenizer()
    random_llama(tokenizer, **options).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def chat_row(question: str, answer: str, **others: object) -> dict[str, object]:
    """A row of a data set: one question, one answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **others}
