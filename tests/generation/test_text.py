"""Text that grows token by token."""

import random

import pytest

from quatro.generation.text import AnswerText, End, StopText, TokenText, Trimmed


def fed(stops, text, size, end=End.OWN):
    """All that a StopText gives when it is fed pieces of `size` characters."""
    filter_ = StopText(stops)
    given = "".join(filter_.feed(text[at : at + size]) for at in range(0, len(text), size))
    return given + filter_.flush(end)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_nothing_of_a_stop_string_is_ever_given_however_the_text_is_cut(size):
    assert fed(["### END."], "The shop opens at nine. ### END. And more", size) == "The shop opens at nine. "


def test_a_stop_text_equals_cutting_the_whole_text_at_the_first_stop():
    chance = random.Random(0)
    for _ in range(500):
        stops = ["".join(chance.choices("ab#", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        text = "".join(chance.choices("ab# ", k=30))
        cut = min((at for at in map(text.find, stops) if at >= 0), default=None)
        if cut is not None:
            assert fed(stops, text, chance.randint(1, 4)) == text[:cut], (stops, text)


def test_text_before_a_possible_stop_is_given_at_once():
    filter_ = StopText(["###"])
    assert filter_.feed("hello #") == "hello "
    assert filter_.feed("1 is") == "#1 is"


def test_a_text_that_was_cut_never_shows_the_beginning_of_a_stop_string():
    assert fed(["### END."], "All right ##", 4, End.CUT) == "All right "
    assert fed(["### END."], "All right ###", 4, End.CUT) == "All right "
    assert fed(["### END."], "All right ### EN", 4, End.CUT) == "All right "


def test_a_text_that_ended_by_itself_keeps_a_sharp_but_not_a_stray_marker():
    assert fed(["### END."], "I like C#", 4, End.OWN) == "I like C#"
    assert fed(["### END."], "All right ###", 4, End.OWN) == "All right "
    assert fed(["### END."], "All right ### E", 4, End.OWN) == "All right "


def test_a_character_of_several_tokens_is_given_when_it_is_whole(tokenizer):
    text = "Café 🦦 für 日本"
    decoder = TokenText(tokenizer)
    pieces = [decoder.feed(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)


def test_half_a_character_at_the_end_is_not_lost_silently(tokenizer):
    decoder = TokenText(tokenizer)
    first, second = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert decoder.feed(first) == ""
    assert decoder.flush() == "\N{REPLACEMENT CHARACTER}"
    assert second != first


def test_special_tokens_are_not_text(tokenizer):
    decoder = TokenText(tokenizer)
    ids = tokenizer("a<|user|>b", add_special_tokens=False)["input_ids"]
    assert "".join(map(decoder.feed, ids)) == "ab"


def test_the_context_is_not_given_back(tokenizer):
    decoder = TokenText(tokenizer, tokenizer("Once upon", add_special_tokens=False)["input_ids"])
    assert "".join(map(decoder.feed, tokenizer(" a time", add_special_tokens=False)["input_ids"])) == " a time"


def test_an_answer_ends_at_its_end_token_its_stop_string_or_its_limit(tokenizer):
    ids = tokenizer("abc###", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id

    def text(stops, limit, tokens):
        answer = AnswerText(tokenizer, stops, [end], limit)
        said = "".join(map(answer.hear, tokens))
        return said + answer.finish(), answer.done

    assert text([], 99, [*ids[:2], end, *ids]) == ("ab", True)
    assert text(["###"], 99, [*ids, *ids]) == ("abc", True)
    assert text([], 2, ids) == ("ab", True)
    assert text([], 99, ids) == ("abc###", False)


def test_white_space_at_both_ends_is_never_given_and_that_within_is_kept():
    trim = Trimmed()
    assert [trim.feed(piece) for piece in [" ", "\n a", " ", "b\n", "\n", "c ", " "]] == ["", "a", "", " b", "", "\n\nc", ""]
