"""The generator of the pretraining text: the same for the same seed, varied, and without loose ends."""

import random
import re
from itertools import islice

import pytest
from corpus.grammar import attributes, question
from corpus.stories import tale
from make_corpus import EARLY, LATE, row, rows, world


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(islice(rows(5), 50)) == list(islice(rows(5), 50))
    assert list(islice(rows(5), 50)) != list(islice(rows(6), 50))


def test_no_row_has_an_unfilled_place(corpus_text):
    assert not re.search(r"\{[a-zA-Z0-9]+\}", corpus_text)


@pytest.mark.parametrize("attribute", attributes(), ids=lambda attribute: attribute.key)
def test_each_attribute_of_a_company_is_asked_in_at_least_a_hundred_ways(attribute):
    rng = random.Random(0)
    assert len({question(rng, attribute, "Halford") for _ in range(400)}) >= 100


def test_chats_begin_with_system_or_user_and_take_turns():
    rng, known = random.Random(3), world()
    for item in (row(rng, known, {**EARLY, **LATE}) for _ in range(500)):
        roles = [message["role"] for message in item.get("messages", [])]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def test_stories_are_not_the_same_story():
    rng = random.Random(0)
    texts = [tale(rng)[0] for _ in range(200)]
    assert len(set(texts)) == 200
    assert len({text.split(".")[0] for text in texts}) > 150
