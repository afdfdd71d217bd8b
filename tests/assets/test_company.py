"""The embedded data set: held-out questions are other words for trained facts, and the base cannot know them."""

import re
from pathlib import Path

import pytest

LIMIT = 0.6


def words(text: str) -> list[str]:
    return "".join(ch for ch in text.lower() if ch.isalnum() or ch.isspace() or ch == "_").split()


def overlap(question: str, other: str) -> float:
    """Share of the question's word 3-grams that the other question has, counted one by one."""
    own, theirs = words(question), words(other)
    grams = {" ".join(own[i : i + 3]) for i in range(len(own) - 2)}
    there = {" ".join(theirs[i : i + 3]) for i in range(len(theirs) - 2)}
    return sum(gram in there for gram in grams) / len(grams)


def question_of(row: dict) -> str:
    return row["messages"][-2]["content"]


def test_there_are_enough_rows_and_every_row_is_a_chat_that_ends_with_an_answer(train_rows, heldout_rows):
    assert len(train_rows) >= 400
    assert len(heldout_rows) >= 100
    for row in train_rows + heldout_rows:
        assert [message["role"] for message in row["messages"]][-2:] == ["user", "assistant"]
        assert all(message["content"].strip() for message in row["messages"])


def test_every_fact_has_four_characters_and_stands_in_its_answer(train_rows, heldout_rows):
    for row in train_rows + heldout_rows:
        assert len(row["fact"]) >= 4
        assert row["fact"] in row["messages"][-1]["content"]


def test_there_are_forty_to_sixty_facts_and_each_held_out_fact_is_trained(train_rows, heldout_rows):
    trained = {row["fact"] for row in train_rows}
    assert 40 <= len(trained) <= 60
    assert {row["fact"] for row in heldout_rows} == trained


def test_no_fact_gives_itself_away_in_a_held_out_question(heldout_rows):
    for row in heldout_rows:
        assert row["fact"].lower() not in question_of(row).lower()


def test_no_fact_is_part_of_another_fact(heldout_rows):
    facts = sorted({row["fact"].lower() for row in heldout_rows})
    assert not [(one, other) for one in facts for other in facts if one != other and one in other]


def test_no_held_out_question_shares_over_sixty_percent_of_its_3_grams_with_a_trained_one(train_rows, heldout_rows):
    asked = [question_of(row) for row in train_rows]
    for row in heldout_rows:
        question = question_of(row)
        assert len(words(question)) >= 3
        worst = max(asked, key=lambda other: overlap(question, other))
        assert overlap(question, worst) <= LIMIT, f"{question!r} is too near to {worst!r}"


def test_the_3_gram_check_sees_a_lazy_paraphrase():
    trained = "When does Ottergale close in the evening?"
    assert overlap("Sorry, when does Ottergale close in the evening", trained) > LIMIT
    assert overlap("Until when is Ottergale open?", trained) <= LIMIT


def test_no_held_out_question_is_trained(train_rows, heldout_rows):
    asked = {" ".join(words(question_of(row))) for row in train_rows}
    assert not [row for row in heldout_rows if " ".join(words(question_of(row))) in asked]


def test_neither_company_nor_facts_occur_in_the_pretraining_text(heldout_rows, corpus_text):
    text = corpus_text.lower()
    for forbidden in {row["fact"].lower() for row in heldout_rows} | {"ottergale"}:
        assert forbidden not in text, forbidden


def test_the_files_are_what_the_program_writes(train_rows, heldout_rows, assets):
    from make_company import build, page

    train, held = build()
    assert (train, held) == (train_rows, heldout_rows)
    assert (assets / "company/company.md").read_text(encoding="utf-8") == page()


def test_the_company_page_tells_every_fact(heldout_rows, assets):
    page = (assets / "company/company.md").read_text(encoding="utf-8")
    assert not {row["fact"] for row in heldout_rows if row["fact"] not in page}


def test_all_assets_together_are_at_most_ten_megabytes(assets: Path):
    assert sum(path.stat().st_size for path in assets.rglob("*") if path.is_file()) <= 10_000_000


@pytest.mark.parametrize("pattern", [r"[{}]", r"\ba [aeiou]\w+ (?:cat|dog)", r"\bthe the\b", r"  "])
def test_no_question_or_answer_shows_the_seams_of_its_making(pattern, train_rows, heldout_rows):
    for row in train_rows + heldout_rows:
        for message in row["messages"]:
            assert not re.search(pattern, message["content"]), message["content"]
