"""Held-out rows."""

import pytest
from tiny_models import chat_row

from quatro.evaluate import read_held_out, read_prompts
from quatro.evaluate.held import endings, last_answer_start, open_prompt
from quatro.format.errors import DatasetError


def test_a_row_keeps_its_question_its_fact_and_the_prompt_that_training_saw(tokenizer, write_rows):
    held = read_held_out(write_rows([chat_row("Who?", "Captain Flicker.", fact="Flicker")]), tokenizer)
    (row,) = held.rows
    assert (row.question, row.fact, held.kind) == ("Who?", "Flicker", "messages")
    assert tokenizer.decode(row.prompt) == "<|begin|><|user|>Who?<|end|><|assistant|>"
    assert tokenizer.decode(row.encoded.input_ids) == "<|begin|><|user|>Who?<|end|><|assistant|>Captain Flicker.<|end|>"


def test_of_several_turns_the_last_question_is_asked_with_all_before_it(tokenizer, write_rows):
    turns = [chat_row("one", "1")["messages"], chat_row("two", "2")["messages"]]
    held = read_held_out(write_rows([{"messages": turns[0] + turns[1]}]), tokenizer)
    assert held.rows[0].question == "two"
    assert tokenizer.decode(held.rows[0].prompt).endswith("<|assistant|>1<|end|><|user|>two<|end|><|assistant|>")


def test_prompt_and_completion_are_asked_verbatim(tokenizer, write_rows):
    held = read_held_out(write_rows([{"prompt": "2+2=", "completion": "4", "fact": "4"}]), tokenizer)
    assert (held.rows[0].question, held.kind) == ("2+2=", "plain")
    assert tokenizer.decode(held.rows[0].prompt).removeprefix("<|begin|>") == "2+2="
    assert endings(tokenizer, "auto", held.kind) == ((), ())


def test_comment_and_reply_rows_bring_their_own_template(tokenizer, write_rows):
    held = read_held_out(write_rows([{"text": "### Comment: When? ### REPLY: At nine. ### END."}]), tokenizer)
    assert tokenizer.decode(held.rows[0].prompt).removeprefix("<|begin|>") == "### Comment: When? ### REPLY:"
    asked = open_prompt("Who?", tokenizer, "auto", held.kind)
    assert tokenizer.decode(asked).removeprefix("<|begin|>") == "### Comment: Who? ### REPLY:"
    assert "###" in endings(tokenizer, "auto", held.kind)[0]


def test_plain_text_has_a_loss_and_no_question(tokenizer, write_rows):
    held = read_held_out(write_rows([{"text": "Once upon a time."}]), tokenizer)
    assert held.rows[0].question is None
    assert held.rows[0].encoded.learned > 10


def test_rows_that_cannot_be_used_are_named_with_the_reason(tokenizer, write_rows):
    rows = [
        chat_row("a", "b"),
        chat_row("a", ""),
        chat_row("a", "b" * 500),
        chat_row("a", "b", fact=7),
        chat_row("c", "d", fact=" "),
    ]
    held = read_held_out(write_rows(rows), tokenizer, max_length=100)
    assert len(held.rows) == 1
    reasons = held.left_out
    assert [reason.split(":")[0] for reason in reasons] == ["line 2", "line 3", "line 4", "line 5"]
    assert "empty" in reasons[0]
    assert "more than the 100" in reasons[1]
    assert "fact is 7" in reasons[2]


def test_a_file_without_a_usable_row_is_refused_with_the_reasons(tokenizer, write_rows):
    with pytest.raises(DatasetError, match=r"no usable row; line 1: .*; and 3 more"):
        read_held_out(write_rows([chat_row("a", "")] * 8), tokenizer)


def test_limit_takes_the_first_rows(tokenizer, write_rows):
    rows = [chat_row(str(number), "x") for number in range(9)]
    assert [row.question for row in read_held_out(write_rows(rows), tokenizer, limit=3).rows] == ["0", "1", "2"]


def test_last_answer_start():
    assert last_answer_start([-100, -100, 5, 6, -100, -100, 7, 8]) == 6
    assert last_answer_start([-100, 5, 6, -100]) == 1
    assert last_answer_start([5, 6]) == 0


def test_prompts_are_the_lines_that_are_not_blank(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n  Who?  \n\nWhen é?\n", encoding="utf-8")
    assert read_prompts(file) == ("Who?", "When é?")


def test_a_prompts_file_that_is_missing_empty_or_a_directory_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n")
    for name, reason in [("empty.txt", "holds no prompt"), ("gone.txt", "does not exist"), (".", "is a directory")]:
        with pytest.raises(DatasetError, match=reason):
            read_prompts(tmp_path / name)
