"""A conversation."""

import logging

import pytest
from tiny_models import WINDOW, byte_tokenizer, scripted

from quatro.format.errors import InputError, TemplateError
from quatro.generation import Chat, Sampling, complete
from quatro.generation.chat import check_length


def say(chat, text):
    return "".join(chat.ask(text))


def test_question_and_answer_become_part_of_the_conversation(tokenizer):
    chat = Chat(scripted(tokenizer, " Hello.\n"), tokenizer, system="Be kind.")
    assert say(chat, "Hi") == "Hello."
    assert chat.messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]


def test_the_model_reads_the_whole_conversation(tokenizer):
    model, prompts = scripted(tokenizer, "Yes."), []
    model.register_forward_pre_hook(lambda _, __, kwargs: prompts.append(kwargs["input_ids"]), with_kwargs=True)
    chat = Chat(model, tokenizer, system="S")
    say(chat, "one")
    say(chat, "two")
    whole = max(prompts, key=lambda ids: ids.shape[1])[0]
    assert tokenizer.decode(whole) == (
        "<|begin|><|system|>S<|end|><|user|>one<|end|><|assistant|>Yes.<|end|><|user|>two<|end|><|assistant|>"
    )


def test_an_answer_that_is_closed_half_way_is_kept_as_far_as_it_was_seen(tokenizer):
    chat = Chat(scripted(tokenizer, "abcdef"), tokenizer)
    pieces = chat.ask("?")
    assert [next(pieces), next(pieces)] == ["a", "b"]
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": "ab"}


def test_a_question_whose_answer_failed_before_its_first_word_is_not_kept(tokenizer):
    model = scripted(tokenizer, "")
    chat = Chat(model, tokenizer)
    assert say(chat, "?") == ""
    assert chat.messages == []


def test_undo_takes_back_one_question_and_reset_all_but_the_system_message(tokenizer):
    chat = Chat(scripted(tokenizer, "Yes."), tokenizer, system="S")
    say(chat, "one")
    say(chat, "two")
    assert chat.undo() == "two"
    assert [message["content"] for message in chat.messages] == ["S", "one", "Yes."]
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "S"}]
    assert chat.undo() is None


def test_the_oldest_turns_are_left_out_and_it_is_said_once(tokenizer, caplog):
    model, prompts = scripted(tokenizer, "Yes."), []
    model.register_forward_pre_hook(lambda _, __, kwargs: prompts.append(kwargs["input_ids"]), with_kwargs=True)
    chat = Chat(model, tokenizer, system="S", sampling=Sampling(max_new_tokens=40))
    with caplog.at_level(logging.WARNING, "quatro"):
        for number in range(12):
            say(chat, f"question {number:02} ".ljust(30, "."))
    read = [tokenizer.decode(ids[0]) for ids in prompts if ids.shape[1] > 1]
    assert all(len(tokenizer(text)["input_ids"]) + 40 <= WINDOW for text in read)
    assert all("<|system|>S<|end|><|user|>" in text for text in read), "a question and its answer go together"
    assert "question 11" in read[-1]
    assert "question 10" in read[-1]
    assert "question 00" not in read[-1]
    assert len(chat.messages) == 25, "the conversation itself forgets nothing"
    assert len([record for record in caplog.records if "oldest turns" in record.message]) == 1


def test_a_question_longer_than_the_window_is_refused_before_anything_is_generated(tokenizer):
    model = scripted(tokenizer, "Yes.")
    model.failure = AssertionError("it generated")
    chat = Chat(model, tokenizer)
    with pytest.raises(InputError, match=rf"reads at most {WINDOW - 1}"):
        chat.ask("x" * (WINDOW + 1))
    assert chat.messages == []


def test_an_answer_never_runs_over_the_window(tokenizer):
    model = scripted(tokenizer, "y" * 500)
    question = "x" * (WINDOW // 2 - 4)
    said = say(Chat(model, tokenizer, sampling=Sampling(max_new_tokens=500)), question)
    prompt = len(question) + 4
    assert prompt + len(said) == WINDOW


def test_a_stray_marker_of_the_next_turn_is_not_shown(tokenizer):
    model = scripted(tokenizer, "We open at nine. ### END.\n### Comment: and when")
    assert say(Chat(model, tokenizer, template="comment-reply"), "When?") == "We open at nine."


def test_a_tokenizer_without_a_template_is_refused_and_a_named_one_helps(tokenizer):
    bare = byte_tokenizer(template=None)
    model = scripted(bare, "Yes.<|im_end|>")
    with pytest.raises(TemplateError, match="template"):
        Chat(model, bare)
    assert say(Chat(model, bare, template="chatml"), "?") == "Yes."


def test_own_stop_strings_come_beside_those_of_the_template(tokenizer):
    assert say(Chat(scripted(tokenizer, "one. two."), tokenizer, stops=["."]), "?") == "one"


def test_a_plain_text_is_continued_with_its_first_space(tokenizer):
    assert "".join(complete(scripted(tokenizer, " upon a time\n\n"), tokenizer, "Once")) == " upon a time\n\n"
    with pytest.raises(InputError, match="empty"):
        complete(scripted(tokenizer, "x"), tokenizer, "")
    with pytest.raises(InputError, match="shorten"):
        complete(scripted(tokenizer, "x"), tokenizer, "x" * WINDOW)


def test_check_length_allows_one_token_of_answer():
    check_length(WINDOW - 1, WINDOW)
    check_length(10**9, None)
    with pytest.raises(InputError, match="question 3 has 192 tokens"):
        check_length(WINDOW, WINDOW, "question 3")
