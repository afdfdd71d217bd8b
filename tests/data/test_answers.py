import pytest
from transformers import PreTrainedTokenizerFast

from quatro.data.answers import Segment, answer_segments
from quatro.data.examples import Message
from quatro.data.templates import Template, choose_template
from quatro.format.errors import TemplateError

CHAT = [Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"), Message("assistant", "a2")]


def _template(source: str) -> Template:
    return Template("test", source)


def test_every_answer_is_learned_with_its_end_and_nothing_else(byte_level: PreTrainedTokenizerFast) -> None:
    segments = answer_segments(choose_template("chatml", byte_level), byte_level, CHAT)
    assert [segment.text for segment in segments if segment.learned] == ["a1<|im_end|>", "a2<|im_end|>"]
    assert "".join(segment.text for segment in segments) == (
        "<s><|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>\n"
    )


def test_a_reply_is_learned_up_to_its_end_mark(byte_level: PreTrainedTokenizerFast) -> None:
    segments = answer_segments(choose_template("comment-reply", byte_level), byte_level, CHAT[:2])
    assert segments == (
        Segment("<s>### Comment: q1 ### REPLY:", False),
        Segment(" a1 ### END.</s>", True),
        Segment("\n", False),
    )


def test_a_template_that_rewrites_earlier_turns_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    """As templates do that drop what an assistant thought once it has answered."""
    source = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert answer_segments(_template(source), byte_level, CHAT[:2])
    with pytest.raises(TemplateError, match="renders turns differently once others follow: the chat up to turn 2"):
        answer_segments(_template(source), byte_level, CHAT)


def test_a_generation_prompt_that_training_text_lacks_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    source = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    with pytest.raises(TemplateError, match="the chat before turn 2 is not the beginning"):
        answer_segments(_template(source), byte_level, CHAT)


def test_a_template_without_an_end_of_turn_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(TemplateError, match="would never learn to stop"):
        answer_segments(_template(source), byte_level, CHAT)
