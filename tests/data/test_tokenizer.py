from transformers import PreTrainedTokenizerFast

from quatro.data.tokenizer import opening_ids


def test_the_opening_is_what_the_tokenizer_puts_before_a_text(
    byte_level: PreTrainedTokenizerFast, spaced: PreTrainedTokenizerFast
) -> None:
    assert opening_ids(byte_level) == []
    assert opening_ids(spaced) == [spaced.bos_token_id]
