"""How the next token is chosen."""

import pytest

from quatro.format.errors import InputError
from quatro.generation import Sampling


@pytest.mark.parametrize(
    ("name", "wrong"), [("max_new_tokens", 0), ("temperature", -1.0), ("temperature", 11.0), ("top_p", 0.0)]
)
def test_an_impossible_choice_is_refused_with_its_name(name, wrong):
    with pytest.raises(InputError, match=name):
        Sampling(**{name: wrong})


def test_zero_is_greedy_and_more_samples_from_all_tokens():
    greedy, warm = Sampling().config([2], 1), Sampling(temperature=0.7, top_p=0.9).config([2], 1)
    assert (greedy.do_sample, greedy.num_beams, greedy.repetition_penalty) == (False, 1, 1.0)
    assert (warm.do_sample, warm.temperature, warm.top_p, warm.top_k) == (True, 0.7, 0.9, 0)


def test_what_the_checkpoint_recommends_does_not_apply(model, tokenizer):
    from quatro.generation import answers

    question = [[{"role": "user", "content": "Who is there?"}]]
    plain = answers(model, tokenizer, question, max_new_tokens=12)
    before = model.generation_config.to_dict()
    try:
        model.generation_config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1)
        assert answers(model, tokenizer, question, max_new_tokens=12) == plain
    finally:
        model.generation_config.update(**before)
