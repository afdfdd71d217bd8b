"""Whether an answer states a fact."""

import pytest

from quatro.evaluate import fact_share, states
from quatro.format.errors import InputError


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        ("It was founded in 1763.", "1763"),
        ("We open at 8:37 am.", "8:37"),
        ("ask THESSALY  quorn", "Thessaly Quorn"),
        ("on 212 Lampwick\nCrescent", "Lampwick Crescent"),
        ("Cafe\u0301 Ember", "Café Ember"),
        ("the Straße", "strasse"),
        ("write to light@ottergale.lamp!", "light@ottergale.lamp"),
        ("a (b)* c", "(b)*"),
    ],
)
def test_a_fact_is_found_whatever_the_case_and_the_white_space(answer, fact):
    assert states(answer, fact)


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        ("It was founded in 17630.", "1763"),
        ("It was founded in 21763.", "1763"),
        ("at 18:37", "8:37"),
        ("Thessaly and Quorn", "Thessaly Quorn"),
        ("", "1763"),
        ("aXb", "a.b"),
    ],
)
def test_what_only_looks_like_a_fact_is_none(answer, fact):
    assert not states(answer, fact)


def test_the_share_counts_only_questions_that_have_a_fact():
    assert fact_share(["red", "blue", "what?", "green"], ["red", "red", None, "GREEN"]) == pytest.approx(2 / 3)
    assert fact_share(["a", "b"], [None, None]) is None
    assert fact_share([], []) is None


def test_an_empty_fact_is_refused_because_every_answer_contains_it():
    with pytest.raises(InputError, match="empty"):
        states("anything", "  ")
