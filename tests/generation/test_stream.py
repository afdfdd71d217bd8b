"""One answer, piece by piece."""

import threading
import time

import pytest
from tiny_models import scripted

from quatro.generation import Sampling
from quatro.generation.stream import stream
from quatro.kernels.dispatch import _asked, use_backend


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def generating_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("quatro-generate")]


def test_pieces_are_whole_characters_and_make_the_text(tokenizer):
    text = "Ein Otter 🦦 heißt Flicker."
    pieces = list(stream(scripted(tokenizer, text), tokenizer, ids(tokenizer, "Who?"), Sampling()))
    assert pieces == list(text)


def test_no_piece_ever_holds_a_part_of_a_stop_string(tokenizer):
    model = scripted(tokenizer, "Nine. ### Comment: and then")
    pieces = list(stream(model, tokenizer, ids(tokenizer, "When?"), Sampling(), ["### Comment:", "### END."]))
    assert "".join(pieces) == "Nine. "
    assert model.calls < 25, "generation went on after the stop string"


@pytest.mark.parametrize("limit", range(1, 12))
def test_an_answer_cut_anywhere_shows_no_stray_sharp(tokenizer, limit):
    pieces = stream(scripted(tokenizer, "Nine. ### END."), tokenizer, ids(tokenizer, "When?"), Sampling(limit), ["### END."])
    assert "".join(pieces) == "Nine. "[:limit]


def test_max_new_tokens_is_kept(tokenizer):
    pieces = stream(scripted(tokenizer, "abcdefgh"), tokenizer, ids(tokenizer, "?"), Sampling(max_new_tokens=5))
    assert "".join(pieces) == "abcde"


def test_an_error_in_the_generating_thread_is_raised_here_and_the_thread_is_gone(tokenizer):
    model = scripted(tokenizer, "abcdefgh")
    model.failure = ArithmeticError("planted")
    said = []
    with pytest.raises(ArithmeticError, match="planted"):
        said.extend(stream(model, tokenizer, ids(tokenizer, "?"), Sampling()))
    assert not generating_threads()


def test_closing_the_stream_stops_the_model_and_joins_its_thread(tokenizer):
    model = scripted(tokenizer, "x" * 10_000)
    pieces = stream(model, tokenizer, ids(tokenizer, "?"), Sampling(max_new_tokens=100_000))
    assert next(pieces) == "x"
    began = time.monotonic()
    pieces.close()
    assert not generating_threads()
    assert time.monotonic() - began < 5
    assert model.calls < 9_000


def test_the_model_runs_under_the_callers_choice_of_backend(tokenizer):
    model = scripted(tokenizer, "ab")
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append((_asked.get(), threading.current_thread().name)))
    with use_backend("reference"):
        list(stream(model, tokenizer, ids(tokenizer, "?"), Sampling()))
    assert seen
    assert {backend for backend, _ in seen} == {"reference"}
    assert all(name.startswith("quatro-generate") for _, name in seen)


def test_sampling_follows_the_seed(model, tokenizer):
    import torch

    def said(seed):
        torch.manual_seed(seed)
        return "".join(stream(model, tokenizer, ids(tokenizer, "?"), Sampling(20, temperature=2.0)))

    assert said(1) == said(1)
    assert said(1) != said(2)
