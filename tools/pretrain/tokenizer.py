"""The tokenizer of the embedded base: byte-level BPE that gives any text back, with a chat template."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from make_corpus import rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY, SAMPLE_ROWS, SAMPLE_SEED = 2048, 40_000, 7
BEGIN, PAD, END = "<|begin|>", "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ('system', 'user') %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant, got ' + message['role']) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _texts() -> Iterator[str]:
    for row in islice(rows(SAMPLE_SEED), SAMPLE_ROWS):
        yield row["text"] if "text" in row else "\n".join(turn["content"] for turn in row["messages"])


def train() -> PreTrainedTokenizerFast:
    """Trains on a fixed sample of the corpus; digits stay single, so numbers are copied digit by digit."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, PAD, END, *ROLES],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        model_max_length=1024,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load_or_train(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer kept in the directory, made first if it is not there."""
    if not (directory / "tokenizer.json").exists():
        train().save_pretrained(directory)
    return PreTrainedTokenizerFast.from_pretrained(directory)
