"""Base beside adapter."""

import json

import pytest
from rich.console import Console
from tiny_models import chat_row

from quatro.evaluate import Comparison, HeldOut, Row, compare, held_out_loss, read_held_out
from quatro.evaluate.render import markdown, table
from quatro.format.errors import InputError
from quatro.generation import continuations

# peft 0.21 reads a property that transformers 5.23 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def drawn(comparison, width=100, **options):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table(comparison, **options))
    return captured.get()


@pytest.fixture
def held(tokenizer, write_rows):
    rows = [chat_row(f"What is {name}?", f"It is {name}.", fact=name) for name in ("alpha", "beta", "gamma")]
    return read_held_out(write_rows([*rows, *(chat_row(f"open {number}?", "Nothing.") for number in range(5))]), tokenizer)


def test_the_base_is_the_model_without_its_adapter(adapted, model, tokenizer, held):
    found = compare(adapted, tokenizer, held, max_new_tokens=8)
    encoded = [row.encoded for row in held.rows]
    assert found.base_loss == pytest.approx(held_out_loss(model, encoded).per_token, rel=1e-6)
    assert found.adapter_loss == pytest.approx(held_out_loss(adapted, encoded).per_token, rel=1e-6)
    assert found.base_loss != pytest.approx(found.adapter_loss, rel=1e-2)
    prompts = [row.prompt for row in held.rows[:3]]
    assert [row.base_answer for row in found.rows[:3]] == continuations(model, tokenizer, prompts, max_new_tokens=8)
    assert [row.adapter_answer for row in found.rows[:3]] == continuations(adapted, tokenizer, prompts, max_new_tokens=8)
    assert [row.base_answer for row in found.rows] != [row.adapter_answer for row in found.rows]


def test_the_adapter_is_on_again_afterwards(adapted, tokenizer, held):
    before = held_out_loss(adapted, [held.rows[0].encoded]).total
    compare(adapted, tokenizer, held, max_new_tokens=2)
    assert held_out_loss(adapted, [held.rows[0].encoded]).total == before


def test_all_facts_are_asked_some_open_rows_and_the_prompts(adapted, tokenizer, held):
    found = compare(adapted, tokenizer, held, prompts=["And who are you?"], samples=2, max_new_tokens=2)
    assert [row.question for row in found.rows] == [
        "What is alpha?",
        "What is beta?",
        "What is gamma?",
        "open 0?",
        "open 1?",
        "And who are you?",
    ]
    assert [row.fact for row in found.rows] == ["alpha", "beta", "gamma", None, None, None]
    assert found.tokens == sum(row.encoded.learned for row in held.rows)


def test_prompts_alone_need_no_data(adapted, tokenizer):
    found = compare(adapted, tokenizer, HeldOut(), prompts=["Who?"], max_new_tokens=2)
    assert (found.base_loss, found.adapter_loss, found.base_share) == (None, None, None)
    assert len(found.rows) == 1


def test_progress_hears_four_things_through_to_their_end(adapted, tokenizer, held):
    heard = {}
    compare(
        adapted,
        tokenizer,
        held,
        max_new_tokens=1,
        samples=0,
        progress=lambda what, done, total: heard.update({what: (done, total)}),
    )
    assert heard == {
        "base: held-out loss": (8, 8),
        "base: answers": (3, 3),
        "adapter: held-out loss": (8, 8),
        "adapter: answers": (3, 3),
    }


def test_a_model_without_an_adapter_is_refused(model, tokenizer, held):
    with pytest.raises(InputError, match="adapter"):
        compare(model, tokenizer, held)


FOUND = Comparison(
    (
        Row("When was it founded?", "In 1900, I think.", "It was founded in 1763.", "1763"),
        Row("Who [bold]directs[/bold] it?", "A | B\nC", "Barnaby Whisk directs it.", "Barnaby Whisk"),
        Row("Tell me more.", "", "It glows."),
    ),
    base_loss=3.25,
    adapter_loss=0.5,
    tokens=42,
)


def test_shares_count_right_facts():
    assert (FOUND.base_share, FOUND.adapter_share, FOUND.facts) == (0.0, 1.0, 2)
    assert [row.adapter_right for row in FOUND.rows] == [True, True, None]


def test_the_table_shows_measures_and_answers_and_takes_no_markup_from_them():
    text = drawn(FOUND)
    assert "held-out loss per answer token" in text
    assert "3.250" in text
    assert "0.500" in text
    assert "100.0 %" in text
    assert "✗ In 1900, I think." in text
    assert "✓ It was founded in 1763." in text
    assert "[bold]directs[/bold]" in text
    assert "(nothing)" in text


def test_the_table_shows_only_samples():
    rows = tuple(Row(f"question {number}", "a", "b") for number in range(20))
    text = drawn(Comparison(rows), samples=3)
    assert [number for number in range(20) if f"question {number} " in text] == [0, 9, 19]
    assert len(Comparison(rows).sample(1)) == 1
    assert Comparison(rows).sample(50) == rows


def test_markdown_holds_every_row_in_one_line_each():
    lines = markdown(FOUND).splitlines()
    assert "| held-out loss per answer token | 3.250 | 0.500 |" in lines
    assert "| When was it founded? | ✗ In 1900, I think. | ✓ It was founded in 1763. | 1763 |" in lines
    assert r"| Who \[bold\]directs\[/bold\] it? | ✗ A \| B C | ✓ Barnaby Whisk directs it. | Barnaby Whisk |" in lines


def test_json_says_the_same(tmp_path):
    data = json.loads(json.dumps(FOUND.as_data()))
    assert data["loss"] == {"base": 3.25, "adapter": 0.5, "answer_tokens": 42}
    assert data["fact_share"] == {"base": 0.0, "adapter": 1.0, "questions": 2}
    assert data["rows"][0]["adapter_right"] is True
    assert data["rows"][2]["fact"] is None
