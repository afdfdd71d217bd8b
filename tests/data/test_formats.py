from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quatro.data.examples import Chat, Completion, Message, Text
from quatro.data.formats import FORMATS, as_example, choose_format
from quatro.data.rows import Row, read_rows
from quatro.format.errors import DatasetError

ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = (Message("user", "q"), Message("assistant", "a"))

EXAMPLES = [
    ("messages", {"messages": [ASK, ANSWER]}, Chat(CHAT)),
    ("messages", {"messages": [{"role": "system", "content": "s"}, ASK, ANSWER, ASK]}, Chat((Message("system", "s"), *CHAT))),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Chat(CHAT)),
    ("prompt-completion", {"prompt": "q", "completion": " a"}, Completion("q", " a")),
    ("prompt-completion", {"prompt": [ASK], "completion": [ANSWER]}, Chat(CHAT)),
    ("instruction", {"instruction": "q", "output": "a"}, Chat(CHAT, "instruction")),
    ("instruction", {"instruction": "q", "input": "i", "output": "a"},
     Chat((Message("user", "q", "i"), Message("assistant", "a")), "instruction")),
    ("comment-reply", {"text": "### Comment: q ### REPLY: a ### END."}, Chat(CHAT, "comment-reply")),
    ("comment-reply", {"text": "### Comment:\nq\n### REPLY:\na\n### END.\n### Comment: q ### REPLY: a"},
     Chat((*CHAT, *CHAT), "comment-reply")),
    ("text", {"text": "once upon a time"}, Text("once upon a time")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "example"), EXAMPLES)
def test_each_format_is_recognized_and_read(
    jsonl: Callable[..., Path], name: str, row: dict[str, Any], example: object
) -> None:
    rows = read_rows(jsonl({**row, "id": 7}))
    assert choose_format(rows).name == name
    assert as_example(next(iter(rows)), choose_format(rows)) == example
    assert choose_format(rows, name) is choose_format(rows)


def test_the_most_common_format_wins(jsonl: Callable[..., Path]) -> None:
    rows = read_rows(jsonl({"text": "x"}, {"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}))
    assert choose_format(rows).name == "prompt-completion"


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("messages", [1, 2], "a list where an object with fields was expected"),
        ("messages", {"text": "x"}, "no messages .* it has the fields 'text'"),
        ("messages", {"messages": "hello"}, "messages is a str, not a list"),
        ("messages", {"messages": []}, "no assistant turn"),
        ("messages", {"messages": [ASK]}, "no assistant turn"),
        ("messages", {"messages": [ANSWER, ASK, ANSWER]}, "begins with an assistant turn"),
        ("messages", {"messages": [ASK, {"role": "assistant", "content": "  "}]}, "turn 2, an assistant's, is empty"),
        ("messages", {"messages": [{"role": "bot", "content": "x"}]}, "turn 1 has the role 'bot', not one of"),
        ("messages", {"messages": [ASK, {"role": "assistant"}]}, "turn 2 is not an object with 'role' and 'content'"),
        ("messages", {"messages": [ASK, {"role": "assistant", "content": None}]}, "turn 2 has a content that is a NoneType"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "x"}]}, "turn 1 has the from 'alien'"),
        ("prompt-completion", {"prompt": "a", "completion": None}, "no prompt and completion"),
        ("prompt-completion", {"prompt": "a", "completion": 3}, "completion is a int, not text"),
        ("prompt-completion", {"prompt": "a", "completion": " "}, "completion is empty"),
        ("instruction", {"instruction": "", "output": "x"}, "instruction is empty"),
        ("text", {"text": "\n"}, "text is empty"),
    ],
)
def test_an_unusable_row_says_why(name: str, values: object, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        as_example(Row(1, values), FORMATS[name])


def test_unknown_fields_are_named_with_the_forms_that_are_known(jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DatasetError, match=r"Line 1 has the fields 'question', 'answer'\. Rename .*; prompt and completion;"):
        choose_format(read_rows(jsonl({"question": "q", "answer": "a"})))


def test_an_unknown_format_is_refused_with_the_nearest(jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DatasetError, match=r"'message'; did you mean 'messages'\?"):
        choose_format(read_rows(jsonl({"text": "x"})), "message")
