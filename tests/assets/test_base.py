"""The embedded base: its tokenizer gives any text back, its template marks the answers, it talks, and knows no fact."""

import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is the opposite of hot?"},
    {"role": "assistant", "content": "It is cold."},
    {"role": "user", "content": "And the opposite of big?"},
    {"role": "assistant", "content": "It is small."},
]


@pytest.fixture(scope="module")
def tokenizer(assets):
    return AutoTokenizer.from_pretrained(assets / "base")


@pytest.fixture(scope="module")
def model(assets):
    return AutoModelForCausalLM.from_pretrained(assets / "base", dtype=torch.float32).eval()


def answers(model, tokenizer, questions: list[str]) -> list[str]:
    """Greedy answers, one question at a time."""
    found = []
    for question in questions:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=32, do_sample=False)
        found.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


def test_any_text_comes_back_from_the_tokenizer(tokenizer):
    rng = random.Random(0)
    ranges = ((1, 128), (0xA0, 0xD000), (0x1F300, 0x1F640))
    wild = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(2000))
    for text in (wild, "  two  spaces\n\n\ttabs ", "Grüße, 漢字, 🦦 $48.50 1,342", "don't , . ! 've"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_special_tokens_are_single_and_pad_is_not_the_end(tokenizer):
    assert len({tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id}) == 3
    for role in ("system", "user", "assistant"):
        assert len(tokenizer(f"<|{role}|>", add_special_tokens=False).input_ids) == 1


def test_the_generation_mask_covers_exactly_the_answers_and_their_ends(tokenizer):
    made = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(marked) == "It is cold.<|end|>It is small.<|end|>"


def test_the_generation_prompt_is_where_the_answer_begins(tokenizer):
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    opened = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    assert whole == opened + "It is small.<|end|>"


def test_an_unknown_role_is_refused_by_name(tokenizer):
    with pytest.raises(Exception, match="system, user and assistant, got wizard"):
        tokenizer.apply_chat_template([{"role": "wizard", "content": "Hi"}], tokenize=False)


def test_pretraining_packs_the_very_tokens_of_the_chat_template(tokenizer):
    from pretrain.batches import Packer

    ((ids, weights),) = Packer(tokenizer, 256).samples([{"messages": CHAT}])
    made = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert ids.tolist() == made["input_ids"]
    assert (weights == 1.0).tolist() == [bool(mark) for mark in made["assistant_masks"]]


def test_the_weights_are_two_to_four_million_in_bfloat16_and_blocks_of_64_divide_rows(assets):
    tensors = load_file(assets / "base/model.safetensors")
    assert 2_000_000 <= sum(tensor.numel() for tensor in tensors.values()) <= 4_000_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(tensor.shape[1] % 64 == 0 for tensor in tensors.values() if tensor.ndim == 2)


def test_the_base_answers_simple_questions(model, tokenizer):
    asked = {
        "What is the opposite of hot?": "cold",
        "What does a baker do?": "bread",
        "What color is snow?": "white",
        "How many legs does a spider have?": "eight",
        "What comes after Monday?": "Tuesday",
    }
    found = answers(model, tokenizer, list(asked))
    assert all(right in answer for right, answer in zip(asked.values(), found, strict=True)), found


def test_the_base_reads_an_answer_from_a_text_about_a_firm_it_never_saw(model, tokenizer):
    text = "Brombatch is based in Ollerkip. Brombatch was founded by Tilda Wrenlow. Who started Brombatch?"
    assert "Tilda Wrenlow" in answers(model, tokenizer, [text])[0]


def test_the_base_knows_at_most_one_in_twenty_of_the_held_out_facts(model, tokenizer, heldout_rows):
    rows = heldout_rows[::4]
    found = answers(model, tokenizer, [row["messages"][-2]["content"] for row in rows])
    known = sum(row["fact"].lower() in answer.lower() for row, answer in zip(rows, found, strict=True))
    assert known <= 0.05 * len(rows)
