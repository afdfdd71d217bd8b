"""One answer, piece by piece, while the model is still writing it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from quatro.generation.ending import end_ids, pad_id
from quatro.generation.sampling import Sampling
from quatro.generation.text import AnswerText


class _Listener(StoppingCriteria):
    """Hears each token in the generating thread, hands the certain text on, and decides whether to go on."""

    def __init__(self, answer: AnswerText) -> None:
        self.answer, self.cancelled = answer, False
        self.pieces: SimpleQueue[str | None] = SimpleQueue()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if piece := self.answer.hear(int(input_ids[0, -1])):
            self.pieces.put(piece)
        return torch.full((1,), self.cancelled or self.answer.done, device=input_ids.device)


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    sampling: Sampling,
    stops: Sequence[str] = (),
    turn_ends: Sequence[int] = (),
    context: int = 0,
) -> Iterator[str]:
    """Text pieces of the continuation of `prompt`, which are whole characters and never part of a stop string.

    The model writes in a thread of its own, under the caller's context. Closing the iterator stops it after its current token
    and waits for the thread. What goes wrong there is raised here. turn_ends: tokens that end it beside the checkpoint's own.
    context: how many of the prompt's last tokens the decoder sees, which decide about a first space.
    """
    ends = end_ids(model, tokenizer, turn_ends)
    answer = AnswerText(tokenizer, stops, ends, sampling.max_new_tokens, prompt[len(prompt) - context :])
    listener, config = _Listener(answer), sampling.config(ends, pad_id(tokenizer, ends))
    with ThreadPoolExecutor(1, "quatro-generate") as pool:
        try:
            job = pool.submit(copy_context().run, _generate, model, prompt, config, listener)
            job.add_done_callback(lambda _: listener.pieces.put(None))
            yield from iter(listener.pieces.get, None)
            job.result()
            if rest := answer.finish():
                yield rest
        finally:
            listener.cancelled = True


def _generate(model: PreTrainedModel, prompt: Sequence[int], config: Any, listener: _Listener) -> None:
    ids = torch.tensor([list(prompt)], device=model.device)
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([listener]),
    )
