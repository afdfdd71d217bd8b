"""How a chat becomes one text: the tokenizer's own template, one that is shipped here, or a file of the user's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError

from quatro.data.examples import Message
from quatro.data.tokenizer import Tokenizer
from quatro.format.errors import DatasetError, TemplateError, did_you_mean

SHIPPED = ("alpaca", "chatml", "comment-reply")
SUFFIXES = (".jinja", ".jinja2", ".j2", ".txt")
OWN = "the tokenizer's own"
NATURAL = {"comment-reply": "comment-reply"}
WITHOUT_OWN = {"instruction": "alpaca"}
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Template:
    """A Jinja chat template in transformers' dialect. name: shipped name, file, or "the tokenizer's own"."""

    name: str
    source: str

    @cached_property
    def marks_answers(self) -> bool:
        """Whether the template says itself which part is the assistant's, with {% generation %}."""
        return bool(GENERATION_MARK.search(self.source))

    @cached_property
    def knows_input(self) -> bool:
        """Whether a message's `input` has a place of its own; else it follows the content after an empty line."""
        return bool(re.search(r"""\[\s*['"]input['"]\s*\]|\.input\b""", self.source))


def choose_template(choice: str, tokenizer: Tokenizer, kind: str = "messages") -> Template:
    """The template for chats of a kind (a format's name).

    choice: "auto", a shipped name, or the path of a Jinja file. "auto" is comment-reply for comment-reply rows, else the
    tokenizer's own, else alpaca for instruction rows. Raises TemplateError where there is none.
    """
    if choice in SHIPPED:
        return _shipped(choice)
    if choice != "auto":
        return _from_file(choice)
    if kind in NATURAL:
        return _shipped(NATURAL[kind])
    own = _own(tokenizer)
    if own is not None:
        return Template(OWN, own)
    if kind in WITHOUT_OWN:
        return _shipped(WITHOUT_OWN[kind])
    raise TemplateError(
        "these rows are chats, and the tokenizer has no chat template: nobody said how turns become text. Set data.template to "
        f"one of {', '.join(SHIPPED)}, or to the path of a Jinja file"
    )


def render(template: Template, tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool = False) -> str:
    """The chat as text; with prompt, up to where an answer begins. Raises DatasetError if the template refuses it."""
    return str(apply(template, tokenizer, messages, add_generation_prompt=prompt, tokenize=False))


def apply(template: Template, tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> Any:
    """The tokenizer's apply_chat_template with this template; its errors as letters."""
    turns = [_as_dict(template, message) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, chat_template=template.source, **options)
    except TemplateSyntaxError as error:
        raise TemplateError(f"chat template {template.name}, line {error.lineno}: {error.message}") from None
    except (JinjaError, TypeError) as error:
        raise DatasetError(f"the chat template ({template.name}) cannot render it: {error}") from None


def _as_dict(template: Template, message: Message) -> dict[str, Any]:
    if not message.input:
        return {"role": message.role, "content": message.content}
    if template.knows_input:
        return {"role": message.role, "content": message.content, "input": message.input}
    return {"role": message.role, "content": f"{message.content}\n\n{message.input}"}


def _own(tokenizer: Tokenizer) -> str | None:
    own = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise TemplateError(f"the tokenizer has the chat templates {', '.join(own)} and no default; give a Jinja file")
        return own["default"]
    return own


def _shipped(name: str) -> Template:
    return Template(name, (files("quatro.data") / "templates" / f"{name}.jinja").read_text(encoding="utf-8"))


def _from_file(choice: str) -> Template:
    path = Path(choice).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        reason = "is not a file" if path.suffix in SUFFIXES else "is neither a shipped template nor a Jinja file (.jinja)"
        raise TemplateError(f"data.template {choice!r} {reason}; {did_you_mean(choice, ['auto', *SHIPPED])}, or give a file")
    try:
        return Template(str(path), path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise TemplateError(f"data.template {choice!r} is not UTF-8 text") from None
