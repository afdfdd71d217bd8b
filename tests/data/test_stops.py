import pytest
from transformers import PreTrainedTokenizerFast

from quatro.data.stops import stop_ids, stop_strings
from quatro.format.errors import TemplateError


def test_stops_are_the_end_of_a_turn_and_the_opening_of_the_next(byte_level: PreTrainedTokenizerFast) -> None:
    assert stop_strings(byte_level, "chatml") == ("<|im_end|>", "<|im_start|>user")
    assert stop_strings(byte_level, "alpaca") == ("</s>", "### Instruction:")


def test_a_reply_stops_at_its_first_hash(byte_level: PreTrainedTokenizerFast) -> None:
    assert stop_strings(byte_level, "comment-reply") == ("###",)
    assert stop_strings(byte_level, kind="comment-reply") == ("###",)


def test_stop_tokens_are_the_end_token_and_the_end_of_a_turn(byte_level: PreTrainedTokenizerFast) -> None:
    end, turn = byte_level.eos_token_id, byte_level.convert_tokens_to_ids("<|im_end|>")
    assert stop_ids(byte_level, "chatml") == (end, turn)
    assert stop_ids(byte_level, "comment-reply") == (end,)


def test_without_a_template_there_is_no_answer_to_end(byte_level: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError):
        stop_strings(byte_level)
