"""The loss on answers that were never seen."""

import math
from dataclasses import dataclass

import pytest
import torch

from quatro.data.encode import encode
from quatro.data.examples import Chat, Message
from quatro.evaluate import held_out_loss
from quatro.evaluate import losses as losses_module


def examples(tokenizer):
    """Answers of very different lengths: a mean of means would be far from the mean over tokens."""
    pairs = [("a", "yes"), ("who is it?", "the otter called Captain Flicker, of course"), ("b" * 60, "no"), ("c", "é" * 30)]
    return [encode(Chat((Message("user", q), Message("assistant", a))), tokenizer) for q, a in pairs]


@torch.no_grad()
def by_hand(model, encoded):
    """-log softmax of each labelled token in float64, one row and one token at a time."""
    total, count = 0.0, 0
    for row in encoded:
        logits = model(torch.tensor([row.input_ids])).logits[0].double()
        for position in range(1, len(row.labels)):
            if row.labels[position] != -100:
                total -= math.log(torch.softmax(logits[position - 1], -1)[row.labels[position]])
                count += 1
    return total / count, count


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_loss_is_the_mean_over_answer_tokens_whatever_the_batches(model, tokenizer, batch_size):
    encoded = examples(tokenizer)
    expected, count = by_hand(model, encoded)
    found = held_out_loss(model, encoded, batch_size=batch_size)
    assert found.tokens == count == sum(row.learned for row in encoded)
    assert found.per_token == pytest.approx(expected, rel=1e-5)


def test_questions_do_not_count(model, tokenizer):
    (short, *_) = examples(tokenizer)
    everything = encode(Chat((Message("user", "a"), Message("assistant", "yes"))), tokenizer, loss_on="all")
    assert held_out_loss(model, [short]).tokens == 4
    assert held_out_loss(model, [everything]).per_token != pytest.approx(held_out_loss(model, [short]).per_token, rel=1e-3)


def test_a_uniform_model_loses_the_logarithm_of_its_vocabulary(model, tokenizer):
    from copy import deepcopy

    flat = deepcopy(model)
    torch.nn.init.zeros_(flat.lm_head.weight)
    assert held_out_loss(flat, examples(tokenizer)).per_token == pytest.approx(math.log(len(tokenizer)), rel=1e-6)


def test_batches_respect_the_memory_of_logits(model, tokenizer, monkeypatch):
    sizes = []
    monkeypatch.setattr(losses_module, "MOST_LOGITS", 40 * len(tokenizer))
    expected = by_hand(model, examples(tokenizer))[0]
    handle = model.register_forward_pre_hook(lambda _, __, kw: sizes.append(kw["input_ids"].shape), with_kwargs=True)
    found = held_out_loss(model, examples(tokenizer), batch_size=8)
    handle.remove()
    assert all(rows == 1 or rows * length <= 40 for rows, length in sizes)
    assert len(sizes) > 1
    assert found.per_token == pytest.approx(expected, rel=1e-5)


def test_the_model_keeps_its_mode(model, tokenizer):
    model.train()
    held_out_loss(model, examples(tokenizer))
    assert model.training
    model.eval()
    held_out_loss(model, examples(tokenizer))
    assert not model.training


def test_progress_hears_of_every_row_and_no_row_is_no_loss(model, tokenizer):
    heard = []
    held_out_loss(model, examples(tokenizer), batch_size=3, progress=heard.append)
    assert sum(heard) == 4
    assert held_out_loss(model, []).per_token is None


def test_a_row_without_labels_adds_nothing(model, tokenizer):
    @dataclass
    class Row:
        input_ids: list[int]
        labels: list[int]

    encoded = examples(tokenizer)
    silent = Row([5, 6, 7], [-100] * 3)
    assert held_out_loss(model, [*encoded, silent]).per_token == pytest.approx(
        held_out_loss(model, encoded).per_token, rel=1e-5
    )
