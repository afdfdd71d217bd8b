from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from quatro.data.encode import IGNORED
from quatro.data.prepare import prepare
from quatro.format.errors import DatasetError, InputError, TemplateError

LONG = " the shop opens at nine" * 40


def _rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}?", "completion": f" answer {i}"} for i in range(count)]


def test_every_row_is_accounted_for(byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]) -> None:
    path = jsonl(
        *_rows(5), {"prompt": "q", "completion": ""}, {"prompt": "long", "completion": LONG}, ["no object"], {"prompt": "q"}
    )
    found = prepare(byte_level, path, max_length=64)
    summary = found.summary.train
    assert (summary.rows, summary.used, len(found.train)) == (9, 5, 5)
    assert {(drop.reason, drop.count, drop.numbers) for drop in summary.dropped} == {
        ("completion is empty", 1, (6,)),
        ("more than max_length 64 tokens", 1, (7,)),
        ("a list where an object with fields was expected", 1, (8,)),
        ("no prompt and completion; it has the fields 'prompt'", 1, (9,)),
    }
    assert summary.tokens == sum(len(item["input_ids"]) for item in found.train)
    assert summary.learned_tokens == sum(int((item["labels"] != IGNORED).sum()) for item in found.train)
    text = "\n".join(found.summary.lines())
    assert "format prompt-completion; 5 of 9 rows used" in text
    assert "1 dropped (line 7): more than max_length 64 tokens" in text


def test_long_lists_of_dropped_rows_are_shortened(byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]) -> None:
    path = jsonl({"text": "fine"}, *[{"text": ""}] * 25)
    assert "25 dropped (lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …): text is empty" in prepare(byte_level, path).summary.lines()


def test_a_file_without_a_usable_row_is_refused_with_reasons_and_rows(
    byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]
) -> None:
    path = jsonl({"prompt": "q", "completion": ""}, {"prompt": "q", "completion": " "}, {"prompt": "q", "completion": LONG})
    with pytest.raises(DatasetError) as error:
        prepare(byte_level, path, max_length=32)
    assert str(error.value) == (
        f"{path} has 3 rows and none can be used: 2 dropped (lines 1, 2): completion is empty; "
        "1 dropped (line 3): more than max_length 32 tokens"
    )


def test_a_text_longer_than_max_length_is_cut_and_nothing_is_lost(byte_level: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text(LONG)
    found = prepare(byte_level, path, 0.25, max_length=16)
    ids = [*byte_level(LONG.strip())["input_ids"], byte_level.eos_token_id]
    assert len(found.train) + len(found.held) == -(-(len(ids) - 1) // 15)
    assert found.summary.train.dropped == ()
    assert max(found.train.lengths) == 16


def test_held_out_rows_come_from_a_fraction_or_a_file(byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]) -> None:
    train, other = jsonl(*_rows(40)), jsonl(*_rows(45)[38:], name="held.jsonl")
    part = prepare(byte_level, train, 0.1, seed=1)
    assert (len(part.train), len(part.held), part.summary.eval_sequences) == (36, 4, 4)
    file = prepare(byte_level, train, other)
    assert (len(file.train), len(file.held)) == (40, 7)
    assert file.summary.notes == ("2 held-out sequences also stand in the training data: the held-out loss flatters",)
    assert prepare(byte_level, train).held is None


def test_the_template_of_chats_is_told_and_texts_have_none(
    byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]
) -> None:
    path = jsonl({"text": "### Comment: When? ### REPLY: At nine. ### END."})
    found = prepare(byte_level, path)
    assert found.template is not None
    assert found.template.name == found.summary.train.template == "comment-reply"
    assert prepare(byte_level, jsonl(*_rows(2))).template is None


def test_chats_without_a_template_are_refused(byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]) -> None:
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(TemplateError, match=r"Set data\.template"):
        prepare(byte_level, jsonl(chat))
    assert len(prepare(byte_level, jsonl(chat), template="chatml").train) == 1


def test_values_that_cannot_be_meant_are_refused(byte_level: PreTrainedTokenizerFast, jsonl: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"data\.eval is 1\.5; give a fraction between 0 and 1"):
        prepare(byte_level, jsonl(*_rows(3)), 1.5)
    with pytest.raises(InputError, match=r"data\.max_length is 1"):
        prepare(byte_level, jsonl(*_rows(3)), max_length=1)


@pytest.mark.fixtures
def test_real_data_sets_are_read_whole(fixtures_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fixtures_dir / "models" / "stories3M")
    alpaca = prepare(tokenizer, fixtures_dir / "chat/instruction-1100/instruction-data.json", 0.1)
    assert (alpaca.summary.train.used, alpaca.summary.train.template) == (1100, "alpaca")
    dialogues = prepare(tokenizer, fixtures_dir / "chat/sharegpt-500/dummy_conversation.json", template="chatml")
    assert (dialogues.summary.train.used, dialogues.summary.train.format) == (500, "sharegpt")
