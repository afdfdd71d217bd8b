from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quatro.data.examples import Message
from quatro.data.templates import choose_template, render
from quatro.format.errors import DatasetError, TemplateError

OWN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
CHAT = [Message("user", "When?"), Message("assistant", "At nine.")]


def test_the_shipped_templates_write_what_their_names_promise(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = {name: render(choose_template(name, tokenizer), tokenizer, CHAT) for name in ("chatml", "comment-reply")}
    assert texts["chatml"] == "<s><|im_start|>user\nWhen?<|im_end|>\n<|im_start|>assistant\nAt nine.<|im_end|>\n"
    assert texts["comment-reply"] == "<s>### Comment: When? ### REPLY: At nine. ### END.</s>\n"
    alpaca = choose_template("alpaca", tokenizer)
    assert render(alpaca, tokenizer, CHAT).endswith("\n\n### Instruction:\nWhen?\n\n### Response:\nAt nine.</s>\n\n")
    with_input = [Message("user", "When?", "the shop"), *CHAT[1:]]
    assert "\n\n### Instruction:\nWhen?\n\n### Input:\nthe shop\n\n### Response:\n" in render(alpaca, tokenizer, with_input)


@pytest.mark.parametrize("name", ["chatml", "alpaca", "comment-reply"])
def test_a_prompt_is_the_beginning_of_the_answered_chat(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    template = choose_template(name, tokenizer)
    prompt, whole = render(template, tokenizer, CHAT[:1], prompt=True), render(template, tokenizer, CHAT)
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip().startswith("At nine.")


def test_auto_takes_the_own_template_then_the_natural_one(byte_level: PreTrainedTokenizerFast) -> None:
    assert choose_template("auto", byte_level, "instruction").name == "alpaca"
    assert choose_template("auto", byte_level, "comment-reply").name == "comment-reply"
    byte_level.chat_template = OWN
    assert choose_template("auto", byte_level, "instruction").source == OWN
    assert choose_template("auto", byte_level, "messages").source == OWN
    assert choose_template("auto", byte_level, "comment-reply").name == "comment-reply"
    byte_level.chat_template = {"default": OWN, "tools": ""}
    assert choose_template("auto", byte_level).source == OWN


def test_an_instruction_s_input_follows_it_where_a_template_has_no_place_for_it(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = OWN
    text = render(choose_template("auto", byte_level), byte_level, [Message("user", "Spell it.", "shpo")])
    assert text == "[user] Spell it.\n\nshpo</s>"


def test_a_chat_without_any_template_is_refused_with_what_to_do(byte_level: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match=r"Set data\.template to one of alpaca, chatml, comment-reply, or .* Jinja file"):
        choose_template("auto", byte_level)


def test_a_file_is_a_template(byte_level: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(OWN)
    assert render(choose_template(str(path), byte_level), byte_level, CHAT[:1]) == "[user] When?</s>"


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("chatlm", r"'chatlm' is neither .* did you mean 'chatml'\?"),
        ("missing.jinja", "'missing.jinja' is not a file"),
    ],
)
def test_an_unknown_template_is_refused(byte_level: PreTrainedTokenizerFast, choice: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        choose_template(choice, byte_level)


def test_broken_jinja_is_named_with_its_line(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = "{{ bos_token }}\n{% for m in messages %}"
    with pytest.raises(TemplateError, match="line 2"):
        render(choose_template("auto", byte_level), byte_level, CHAT)


def test_a_chat_that_a_template_refuses_is_a_fault_of_the_row(byte_level: PreTrainedTokenizerFast) -> None:
    byte_level.chat_template = "{{ raise_exception('turns must alternate') }}"
    with pytest.raises(DatasetError, match="turns must alternate"):
        render(choose_template("auto", byte_level), byte_level, CHAT)
