"""The losses that bitsandbytes and PEFT reach on real models, reached here; protocol and figures as in FIGURES' comments."""

from functools import lru_cache

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import quatro

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FIGURES = [
    # model, options (None: float32), nll per token with bitsandbytes 0.50.2 on the same text
    ("stories260K", None, 1.2664),
    ("stories260K", {"double_quant": False}, 1.3784),
    ("stories260K", {}, 1.3791),
    ("stories260K", {"quant_type": "fp4", "double_quant": False}, 1.4938),
    ("stories3M", None, 1.3190),
    ("stories3M", {"double_quant": False}, 1.5347),
    ("stories3M", {}, 1.5367),
    ("stories3M", {"quant_type": "fp4", "double_quant": False}, 1.7502),
]


def load(directory, options):
    config = {} if options is None else {"quantization_config": quatro.QuatroConfig(**options)}
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **config).eval()


@torch.no_grad()
def nll(model, tokenizer, text):
    """Mean of -log p over predicted tokens; windows of 512 that overlap by one, each document on its own."""
    total = count = 0
    for document in filter(None, (part.strip() for part in text.split("<|endoftext|>"))):
        ids = tokenizer(document)["input_ids"]
        for start in range(0, max(1, len(ids) - 1), 511):
            window = torch.tensor([ids[start : start + 512]])
            if window.shape[1] > 1:
                total += model(window, labels=window).loss.item() * (window.shape[1] - 1)
                count += window.shape[1] - 1
    return total / count


@pytest.mark.fixtures
@pytest.mark.parametrize(("name", "options", "figure"), FIGURES, ids=str)
def test_the_loss_of_a_real_model_is_bitsandbytes_to_two_thousandths(fixtures_dir, name, options, figure):
    directory = fixtures_dir / "models" / name
    text = (fixtures_dir / "text/tinystories/tinystories_sample.txt").read_text(encoding="utf-8")
    assert nll(load(directory, options), AutoTokenizer.from_pretrained(directory), text) == pytest.approx(figure, abs=0.002)


EVALUATED = (0, 25, 50, 75, 100)


@lru_cache(maxsize=2)
def held_out_curve(fixtures_dir, precision):
    """Held-out nll after EVALUATED steps: LoRA r=16, alpha=32 on nf4 + double quantization; AdamW 1e-3; 8 windows of 256 a step."""
    directory = fixtures_dir / "models/stories3M"
    text = (fixtures_dir / "text/tinyshakespeare/input.txt").read_text()
    ids = torch.tensor(AutoTokenizer.from_pretrained(directory)(text)["input_ids"])
    train, held = ids[: int(len(ids) * 0.9)], ids[int(len(ids) * 0.9) :]
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=SEVEN, task_type="CAUSAL_LM")
    model = get_peft_model(load(directory, {"precision": precision}), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    losses = [held_out(model, held)]
    for step in range(1, EVALUATED[-1] + 1):
        starts = torch.randint(0, len(train) - 256, (8,))
        batch = torch.stack([train[start : start + 256] for start in starts])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in EVALUATED:
            losses.append(held_out(model, held))
    return losses


@torch.no_grad()
def held_out(model, held):
    model.eval()
    windows = [held[i * 256 : (i + 1) * 256][None] for i in range(40)]
    found = sum(model(window, labels=window).loss.item() for window in windows) / len(windows)
    model.train()
    return found


@pytest.mark.slow
@pytest.mark.fixtures
def test_a_hundred_steps_on_shakespeare_bring_the_held_out_loss_to_3_90_or_lower(fixtures_dir):
    """The reference, bitsandbytes + PEFT, ends at 3.869."""
    losses = held_out_curve(fixtures_dir, "high")
    print("held-out nll", losses)
    assert losses[0] == pytest.approx(5.92, abs=0.02)
    assert losses[-1] <= 3.90


@pytest.mark.slow
@pytest.mark.fixtures
def test_integer_products_train_as_exact_ones_do_to_half_a_percent_of_the_loss_at_every_evaluation(fixtures_dir):
    high, exact = (held_out_curve(fixtures_dir, precision) for precision in ("high", "exact"))
    print("high", high, "exact", exact, "apart", max(abs(a / b - 1) for a, b in zip(high, exact, strict=True)))
    assert high != exact, "both ran the same products"
    assert high == pytest.approx(exact, rel=5e-3)
