import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quatro.data.encode import IGNORED, Encoded, Encoder, encode, render_prompt
from quatro.data.examples import Chat, Completion, Example, Message, Text
from quatro.format.errors import DatasetError, InputError, TemplateError

CHAT = Chat((Message("user", "When do you open?"), Message("assistant", "We open at nine."),
             Message("user", "Who opens?"), Message("assistant", "Anna opens.")))  # fmt: skip
MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
)


def _learned(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> str:
    assert all(label in (token, IGNORED) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


def test_only_answers_and_their_ends_are_learned(byte_level: PreTrainedTokenizerFast) -> None:
    encoded = encode(CHAT, byte_level, template="chatml")
    assert _learned(byte_level, encoded) == "We open at nine.<|im_end|>Anna opens.<|im_end|>"
    assert byte_level.decode(encoded.input_ids).count("<s>") == 1


def test_answers_are_learned_also_where_the_tokenizer_puts_spaces_before_texts(spaced: PreTrainedTokenizerFast) -> None:
    chat = Chat(CHAT.messages[:2], "comment-reply")
    encoded = encode(chat, spaced)
    assert _learned(spaced, encoded) == "We open at nine. ### END.</s>"
    whole = spaced.decode(encoded.input_ids).rstrip()
    assert whole == "<s> ### Comment: When do you open? ### REPLY: We open at nine. ### END.</s>"


@pytest.mark.parametrize("template", ["chatml", "alpaca", "comment-reply"])
def test_training_sees_the_prompt_that_generation_will_see(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    encoded = encode(Chat(CHAT.messages[:2]), tokenizer, template=template)
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORED)
    asked = [{"role": "user", "content": "When do you open?"}]
    assert encoded.input_ids[:first] == render_prompt(asked, tokenizer, template)


def test_generation_marks_of_a_template_say_what_is_learned(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = MARKED
    assert _learned(byte_level, encode(CHAT, byte_level)) == "We open at nine.<|im_end|>Anna opens.<|im_end|>"


def test_the_end_of_turn_is_learned_also_if_marks_leave_it_out(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    assert _learned(byte_level, encode(CHAT, byte_level)) == "We open at nine.<|im_end|>Anna opens.<|im_end|>"


def test_a_completion_is_learned_to_its_end_and_the_prompt_is_not(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(Completion("Who opens the shop?", " Anna opens."), tokenizer)
    assert _learned(tokenizer, encoded).strip() == "Anna opens.</s>"
    without = encode(Completion("", "Anna opens."), tokenizer)
    assert _learned(tokenizer, without).endswith("opens.</s>")


@pytest.mark.parametrize(("prompt", "completion"), [("The sh", "op opens"), ("The shop\n", "\nopens"), ("a ", "question")])
def test_a_token_never_straddles_prompt_and_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str
) -> None:
    """Generation starts from the prompt's own tokens; training must too, even where the text tokenizes otherwise."""
    encoded = encode(Completion(prompt, completion), tokenizer)
    alone = list(tokenizer(prompt)["input_ids"])
    assert encoded.input_ids[: len(alone)] == alone
    assert all(label == IGNORED for label in encoded.labels[: len(alone)])
    assert _learned(tokenizer, encoded) == completion + "</s>"
    assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == prompt + completion


def test_all_of_a_text_is_learned_but_its_first_token(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(Text("The shop opens at nine."), tokenizer)
    assert encoded.labels == [IGNORED, *encoded.input_ids[1:]]
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encoded.input_ids[:-1] == list(tokenizer("The shop opens at nine.")["input_ids"])


@pytest.mark.parametrize("example", [Text("<s>The shop opens.</s>"), Completion("<s>The shop", " opens.</s>")])
def test_bos_and_eos_are_never_doubled(tokenizer: PreTrainedTokenizerBase, example: Example) -> None:
    encoded = encode(example, tokenizer)
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 1


def test_loss_on_all_learns_the_questions_too(byte_level: PreTrainedTokenizerFast) -> None:
    encoded = encode(CHAT, byte_level, template="chatml", loss_on="all")
    assert encoded.labels == [IGNORED, *encoded.input_ids[1:]]
    with pytest.raises(InputError, match=r"'answers'; .*all, assistant"):
        Encoder(byte_level, loss_on="answers")


def test_an_example_that_is_too_long_is_refused_not_cut(byte_level: PreTrainedTokenizerFast) -> None:
    exact = len(encode(CHAT, byte_level, template="chatml").input_ids)
    assert len(encode(CHAT, byte_level, exact, "chatml").input_ids) == exact
    with pytest.raises(DatasetError, match=f"{exact} tokens, more than max_length {exact - 1}"):
        encode(CHAT, byte_level, exact - 1, "chatml")


def test_nothing_to_learn_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = MARKED.replace("m.role == 'assistant'", "m.role == 'nobody'")
    with pytest.raises(DatasetError, match="no token to learn"):
        encode(CHAT, byte_level)


def test_a_completion_needs_an_end_token(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.eos_token = None
    with pytest.raises(TemplateError, match="no eos_token"):
        encode(Completion("a", "b"), byte_level)


def test_many_examples_keep_their_order_and_their_faults(byte_level: PreTrainedTokenizerFast) -> None:
    examples: list[Example] = [Text("one"), CHAT, Completion("a", "b"), Text("two")] * 150
    found = list(Encoder(byte_level, "chatml").encode(examples))
    assert len(found) == len(examples)
    assert found[:4] == found[-4:] == [encode(example, byte_level, template="chatml") for example in examples[:4]]
    byte_level.chat_template = "{{ raise_exception('no') }}"
    faults = list(Encoder(byte_level).encode(examples[:2]))
    assert isinstance(faults[0], Encoded)
    assert isinstance(faults[1], DatasetError)
