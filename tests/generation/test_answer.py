"""Many answers at once."""

import random

import pytest
from tiny_models import WINDOW, scripted

from quatro.format.errors import InputError
from quatro.generation import Chat, Sampling, answers, continuations


def questions(count, seed=0):
    chance = random.Random(seed)
    return [[{"role": "user", "content": "".join(chance.choices("abc def é?", k=chance.randint(1, 60)))}] for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_in_batches_equal_answers_one_by_one(model, tokenizer, batch_size):
    asked = questions(14)
    alone = [answers(model, tokenizer, [turns], max_new_tokens=24)[0] for turns in asked]
    assert answers(model, tokenizer, asked, max_new_tokens=24, batch_size=batch_size) == alone
    assert len(set(alone)) > 10, "the model says the same to all: the test would prove nothing"


def test_an_answer_equals_what_a_chat_says(model, tokenizer):
    asked = questions(5, seed=1)
    said = ["".join(Chat(model, tokenizer, sampling=Sampling(24)).ask(turns[0]["content"])) for turns in asked]
    assert answers(model, tokenizer, asked, max_new_tokens=24) == said


def test_padding_is_masked(model, tokenizer):
    """With a long neighbor a short prompt is mostly padding; unmasked, its answer changes."""
    asked = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b" * 120}]]
    alone = answers(model, tokenizer, asked[:1], max_new_tokens=24)
    assert answers(model, tokenizer, asked, max_new_tokens=24)[0] == alone[0]


def test_a_long_neighbor_takes_no_room_from_a_short_prompt(tokenizer):
    short, long = list(range(6, 16)), list(range(6, 16)) * 18
    said = continuations(scripted(tokenizer, "z" * 400), tokenizer, [long, short], max_new_tokens=100)
    assert [len(text) for text in said] == [WINDOW - 180, 100]


def test_an_answer_ends_at_its_stop_string_while_others_go_on(tokenizer):
    said = continuations(scripted(tokenizer, " nine ### END. x"), tokenizer, [[6, 7], [8]], stops=["### END."])
    assert said == ["nine", "nine"]


def test_progress_hears_of_every_answer(model, tokenizer):
    heard = []
    answers(model, tokenizer, questions(7), max_new_tokens=2, batch_size=3, progress=heard.append)
    assert heard == [3, 3, 1]


def test_a_prompt_that_is_too_long_is_named(model, tokenizer):
    with pytest.raises(InputError, match=r"prompt 2 has \d+ tokens"):
        answers(model, tokenizer, [*questions(1), [{"role": "user", "content": "x" * WINDOW}]])


def test_nothing_asked_is_nothing_answered(model, tokenizer):
    assert answers(model, tokenizer, []) == []
