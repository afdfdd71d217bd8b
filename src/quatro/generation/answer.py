"""Many answers at once: greedy, in batches, each the same as if it had been asked alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from quatro.data.encode import render_prompt
from quatro.data.stops import stop_ids, stop_strings
from quatro.generation.chat import Message, check_length
from quatro.generation.ending import context_window, end_ids, pad_id
from quatro.generation.sampling import Sampling
from quatro.generation.text import AnswerText


class _Listener(StoppingCriteria):
    """Hears the newest token of every row; a row that is done stops."""

    def __init__(self, rows: Sequence[AnswerText]) -> None:
        self.rows, self.texts = rows, [""] * len(rows)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        newest = input_ids[:, -1].tolist()
        self.texts = [text + row.hear(token) for text, row, token in zip(self.texts, self.rows, newest, strict=True)]
        return torch.tensor([row.done for row in self.rows], device=input_ids.device)

    def finish(self) -> list[str]:
        return [(text + row.finish()).strip() for text, row in zip(self.texts, self.rows, strict=True)]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    *,
    template: str = "auto",
    stops: Sequence[str] = (),
    **options: Any,
) -> list[str]:
    """The greedy answer to each conversation, which ends with a question, in their order and without outer white space.

    template: as in Chat. stops: beside the template's own. options: those of `continuations`, which also says what is raised.
    """
    prompts = [render_prompt(turns, tokenizer, template) for turns in conversations]
    every_stop, turn_ends = (*stops, *stop_strings(tokenizer, template)), stop_ids(tokenizer, template)
    return continuations(model, tokenizer, prompts, stops=every_stop, turn_ends=turn_ends, **options)


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    stops: Sequence[str] = (),
    turn_ends: Sequence[int] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The greedy continuation of each prompt of token ids, each the same as if it stood alone.

    Prompts of like length share a batch, padded on the left and masked. stops: text that ends an answer; turn_ends: tokens
    that do, beside the checkpoint's own. progress hears how many more are done.
    Raises InputError naming the first prompt that is longer than the model can read.
    """
    ends = end_ids(model, tokenizer, turn_ends)
    for number, prompt in enumerate(prompts, 1):
        check_length(len(prompt), context_window(model), f"prompt {number}")
    found: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _batch(model, tokenizer, [list(prompts[index]) for index in chosen], max_new_tokens, stops, ends)
        found.update(zip(chosen, texts, strict=True))
        progress(len(chosen))
    return [found[index] for index in range(len(prompts))]


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    stops: Sequence[str],
    ends: list[int],
) -> list[str]:
    """One batch. Each answer has the room that it would have alone, however long its neighbors are."""
    pad, longest, window = pad_id(tokenizer, ends), max(map(len, prompts)), context_window(model)
    limits = [max_new_tokens if window is None else min(max_new_tokens, window - len(prompt)) for prompt in prompts]
    listener = _Listener([AnswerText(tokenizer, stops, ends, limit) for limit in limits])
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=Sampling(max(limits)).config(ends, pad),
        stopping_criteria=StoppingCriteriaList([listener]),
    )
    return listener.finish()
