"""Which part of a rendered chat is the assistant's? Segments of text, each learned or not."""

from collections.abc import Sequence
from dataclasses import dataclass

from quatro.data.examples import Message
from quatro.data.templates import Template, render
from quatro.data.tokenizer import Tokenizer
from quatro.format.errors import TemplateError


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text. learned: whether the loss counts its tokens."""

    text: str
    learned: bool


def answer_segments(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[Segment, ...]:
    """The whole chat as segments; what the model is to say, its end of turn included, is learned.

    An answer lies between two renderings: the chat before it with the generation prompt, and the chat up to it. Both must be
    beginnings of the whole, else nobody can tell what is whose. Raises TemplateError where they are not.
    """
    whole = render(template, tokenizer, messages)
    segments: list[Segment] = []
    done = 0
    for index, message in enumerate(messages):
        if message.role == "assistant":
            start = _length(whole, render(template, tokenizer, messages[:index], prompt=True), template, index, "before")
            end = _length(whole, render(template, tokenizer, messages[: index + 1]), template, index, "up to")
            segments.append(Segment(whole[done:start], False))
            segments.extend(_learned(whole[start:end], message, template, tokenizer))
            done = end
    segments.append(Segment(whole[done:], False))
    return tuple(segment for segment in segments if segment.text)


def _length(whole: str, part: str, template: Template, index: int, where: str) -> int:
    if whole.startswith(part):
        return len(part)
    at = next(i for i, (a, b) in enumerate(zip(whole + "\0", part + "\1", strict=False)) if a != b)
    around = slice(max(0, at - 20), at + 20)
    raise TemplateError(
        f"the chat template ({template.name}) renders turns differently once others follow: the chat {where} turn "
        f"{index + 1} is not the beginning of the whole; they part at {whole[around]!r} and {part[around]!r}. Which tokens are "
        "the answer cannot be told. Mark answers in the template with {% generation %} … {% endgeneration %} and give it as a "
        "file, or choose another data.template"
    )


def _learned(text: str, message: Message, template: Template, tokenizer: Tokenizer) -> list[Segment]:
    """The answer up to its end token; line breaks behind that are the template's, and nobody has to say them."""
    if not text.strip().removeprefix(message.content.strip()):
        raise TemplateError(
            f"the chat template ({template.name}) writes nothing behind an answer, so the model would never learn to stop. "
            "End answers with a token of their own, such as {{ eos_token }}, or choose another data.template"
        )
    body = text.rstrip()
    if not any(body.endswith(token) for token in tokenizer.all_special_tokens):
        return [Segment(text, True)]
    return [Segment(body, True), Segment(text[len(body) :], False)]
