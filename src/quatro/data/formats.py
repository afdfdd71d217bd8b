"""Which form have these rows, and what do they say? Each format recognizes a row and turns it into an example."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from quatro.data.examples import Chat, Completion, Example, Message, Text
from quatro.data.rows import Row, Rows
from quatro.format.errors import DatasetError, did_you_mean

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
}
COMMENT_REPLY = re.compile(
    r"###\s*Comment:(?P<comment>.*?)###\s*REPLY:(?P<reply>.*?)(?:###\s*END\.?|(?=###\s*Comment:)|\Z)", re.DOTALL
)
SAMPLE = 200

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """recognizes: do these fields have the form? example: what they say; else raises DatasetError with the reason."""

    name: str
    needs: str
    recognizes: Callable[[Fields], bool]
    example: Callable[[Fields], Example]


def as_example(row: Row, format: Format) -> Example:
    """The example that a row says in a format. Raises DatasetError with the reason why it cannot be used."""
    if not isinstance(row.values, dict):
        raise DatasetError(f"a {type(row.values).__name__} where an object with fields was expected")
    if not format.recognizes(row.values):
        raise DatasetError(f"no {format.needs}; it has {_fields(row.values)}")
    return format.example(row.values)


def choose_format(rows: Rows, name: str = "auto") -> Format:
    """The named format, or with "auto" the one that most of the first rows have. Raises DatasetError where none fits."""
    if name != "auto":
        if name not in FORMATS:
            raise DatasetError(f"unknown data.format {name!r}; {did_you_mean(name, ['auto', *FORMATS])}")
        return FORMATS[name]
    head = list(islice(rows, SAMPLE))
    found = Counter(format for format in map(_recognized, head) if format)
    if not found:
        raise DatasetError(_nothing_fits(rows, head))
    return FORMATS[found.most_common(1)[0][0]]


def _recognized(row: Row) -> str | None:
    values = row.values
    if not isinstance(values, dict):
        return None
    return next((name for name, format in FORMATS.items() if format.recognizes(values)), None)


def _nothing_fits(rows: Rows, head: list[Row]) -> str:
    first = head[0]
    has = _fields(first.values) if isinstance(first.values, dict) else f"a {type(first.values).__name__}, not an object"
    forms = "; ".join(format.needs for format in FORMATS.values())
    place = f"{rows.unit.capitalize()} {first.number}"
    return f"{rows.path}: no row has a form that quatro knows. {place} has {has}. Rename the fields so that rows have one of: {forms}"


def _fields(values: Fields) -> str:
    return "the fields " + ", ".join(map(repr, values)) if values else "no fields"


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda values: all(values.get(name) is not None for name in names)


def _string(values: Fields, name: str, empty: bool = False) -> str:
    value = values.get(name)
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise DatasetError(f"{name} is a {type(value).__name__}, not text")
    if not (empty or value.strip()):
        raise DatasetError(f"{name} is empty")
    return value


def _messages(values: Fields) -> Example:
    return _chat(_turns(values["messages"], "messages", "role", "content", dict(zip(ROLES, ROLES, strict=True))))


def _sharegpt(values: Fields) -> Example:
    return _chat(_turns(values["conversations"], "conversations", "from", "value", SHAREGPT_ROLES))


def _turns(turns: Any, field: str, role_key: str, text_key: str, roles: dict[str, str]) -> list[Message]:
    if not isinstance(turns, list):
        raise DatasetError(f"{field} is a {type(turns).__name__}, not a list of turns")
    return [_turn(turn, number, role_key, text_key, roles) for number, turn in enumerate(turns, 1)]


def _turn(turn: Any, number: int, role_key: str, text_key: str, roles: dict[str, str]) -> Message:
    if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
        raise DatasetError(f"turn {number} is not an object with {role_key!r} and {text_key!r}")
    role, text = turn[role_key], turn[text_key]
    if role not in roles:
        raise DatasetError(f"turn {number} has the {role_key} {role!r}, not one of {', '.join(roles)}")
    if not isinstance(text, str):
        raise DatasetError(f"turn {number} has a {text_key} that is a {type(text).__name__}, not text")
    return Message(roles[role], text)


def _chat(messages: list[Message], kind: str = "messages") -> Chat:
    """Cut behind the last assistant turn: what comes after it cannot be learned."""
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=None)
    if last is None:
        raise DatasetError("no assistant turn: there is nothing to learn")
    kept = tuple(messages[: last + 1])
    spoken = next(message for message in kept if message.role != "system")
    if spoken.role == "assistant":
        raise DatasetError("the chat begins with an assistant turn: nothing was asked")
    blank = next((n for n, message in enumerate(kept, 1) if message.role == "assistant" and not message.content.strip()), None)
    if blank:
        raise DatasetError(f"turn {blank}, an assistant's, is empty")
    return Chat(kept, kind)


def _prompt_completion(values: Fields) -> Example:
    prompt, completion = values["prompt"], values["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _messages({"messages": [*prompt, *completion]})
    return Completion(_string(values, "prompt", empty=True), _string(values, "completion"))


def _instruction(values: Fields) -> Example:
    user = Message("user", _string(values, "instruction"), _string(values, "input", empty=True))
    return _chat([user, Message("assistant", _string(values, "output"))], "instruction")


def _is_comment_reply(values: Fields) -> bool:
    text = values.get("text")
    return isinstance(text, str) and bool(re.search(r"###\s*Comment:.*###\s*REPLY:", text, re.DOTALL))


def _comment_reply(values: Fields) -> Example:
    messages = []
    for part in COMMENT_REPLY.finditer(_string(values, "text")):
        messages.append(Message("user", part["comment"].strip()))
        messages.append(Message("assistant", part["reply"].strip()))
    return _chat(messages, "comment-reply")


def _text(values: Fields) -> Example:
    return Text(_string(values, "text"))


def _named(formats: Iterable[Format]) -> dict[str, Format]:
    return {format.name: format for format in formats}


FORMATS = _named(
    [
        Format("messages", "messages (a list of {role, content})", _has("messages"), _messages),
        Format("sharegpt", "conversations (a list of {from, value})", _has("conversations"), _sharegpt),
        Format("prompt-completion", "prompt and completion", _has("prompt", "completion"), _prompt_completion),
        Format("instruction", "instruction, output and perhaps input", _has("instruction", "output"), _instruction),
        Format("comment-reply", "text with '### Comment: … ### REPLY: … ### END.'", _is_comment_reply, _comment_reply),
        Format("text", "text", _has("text"), _text),
    ]
)
