"""Base beside adapter, on one model in memory: the adapter is switched off for the one and on for the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from quatro.evaluate.comparison import Comparison, rows_of
from quatro.evaluate.held import Held, HeldOut, endings, open_prompt
from quatro.evaluate.losses import Loss, held_out_loss
from quatro.format.errors import InputError
from quatro.generation import continuations

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class _Question:
    text: str
    prompt: tuple[int, ...]
    fact: str | None = None


def compare(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    held: HeldOut,
    *,
    prompts: Sequence[str] = (),
    samples: int = 8,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    template: str = "auto",
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """The held-out loss and the greedy answers of the base and of the base with its adapter.

    Every row with a fact is answered, and `samples` of the others; then `prompts`, as questions without a fact.
    Raises InputError for a model without an adapter.
    """
    if not isinstance(model, PeftModel):
        raise InputError(f"compare needs a model with an adapter on it, got {type(model).__name__}; attach one first")
    opened = [_Question(text, open_prompt(text, tokenizer, template, held.kind)) for text in prompts]
    questions = [*_questions(held.rows, samples), *opened]
    ends = endings(tokenizer, template, held.kind)
    judge = _Judge(model, tokenizer, held.rows, questions, ends, max_new_tokens, batch_size, progress)
    with model.disable_adapter():
        base_loss, base = judge.loss("base"), judge.answers("base")
    adapter_loss, adapter = judge.loss("adapter"), judge.answers("adapter")
    rows = rows_of([question.text for question in questions], base, adapter, [question.fact for question in questions])
    return Comparison(rows, base_loss.per_token, adapter_loss.per_token, adapter_loss.tokens)


@dataclass(frozen=True)
class _Judge:
    """The same questions and rows for both."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    held: Sequence[Held]
    questions: Sequence[_Question]
    endings: tuple[tuple[str, ...], tuple[int, ...]]
    max_new_tokens: int
    batch_size: int
    progress: Progress

    def loss(self, who: str) -> Loss:
        """The held-out loss of the model as it is now."""
        encoded = [row.encoded for row in self.held]
        return held_out_loss(self.model, encoded, progress=self._counter(f"{who}: held-out loss", len(encoded)))

    def answers(self, who: str) -> list[str]:
        """The answers of the model as it is now."""
        return continuations(
            self.model,
            self.tokenizer,
            [question.prompt for question in self.questions],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            stops=self.endings[0],
            turn_ends=self.endings[1],
            progress=self._counter(f"{who}: answers", len(self.questions)),
        )

    def _counter(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self.progress(what, done, total)

        return count


def _questions(held: Sequence[Held], samples: int) -> list[_Question]:
    """Rows with a fact, and some of those without, in the file's order."""
    asked = [row for row in held if row.question is not None and row.prompt is not None]
    chosen = {id(row) for row in [row for row in asked if row.fact is None][:samples]}
    return [_Question(row.question, row.prompt, row.fact) for row in asked if row.fact is not None or id(row) in chosen]
