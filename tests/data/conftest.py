"""Two small tokenizers of the two families that exist: byte-level, and one that puts a space before every text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CORPUS = [
    "The shop opens at nine and closes at six. Who opens the shop? Anna opens the shop every morning.",
    "### Comment: When do you open? ### REPLY: We open at nine. ### END.",
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "user assistant system question answer hello there how are you",
] * 4
MARKS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIAL = [*MARKS.values(), "<|im_start|>", "<|im_end|>"]


def _with_bos(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **MARKS)


@pytest.fixture
def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2 or Qwen: bytes, nothing put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=["<|im_start|>", "<|im_end|>"], **MARKS)


@pytest.fixture
def spaced() -> PreTrainedTokenizerFast:
    """Like Llama 2: a space and BOS before every text, bytes where a letter is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*MARKS.values(), *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    words = [" " + word for line in CORPUS for word in line.split()]
    tokenizer.train_from_iterator(words, trainer)
    return _with_bos(_bytes_are_ordinary(tokenizer))


def _bytes_are_ordinary(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer knows only special tokens beside learned ones; in the vocabulary of real models bytes are not special."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(description))


@pytest.fixture(params=["byte_level", "spaced"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write objects as a .jsonl file."""

    def write(*rows: Any, name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
