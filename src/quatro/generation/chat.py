"""A conversation: what was said, what of it the model can still read, and its next answer as it is written."""

import logging
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quatro.data.encode import render_prompt
from quatro.data.stops import stop_ids, stop_strings
from quatro.format.errors import InputError
from quatro.generation.ending import context_window
from quatro.generation.sampling import Sampling
from quatro.generation.stream import stream
from quatro.generation.text import Trimmed

logger = logging.getLogger("quatro")
Message = dict[str, str]


class Chat:
    """A conversation with one model.

    messages: all that was said, {"role", "content"} each, a system message first if there is one.
    template: "auto" for the tokenizer's own, or a name of quatro.data. stops: beside the template's own stop strings.
    Raises TemplateError where the tokenizer has no chat template and none is named, InputError for what cannot be meant.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        template: str = "auto",
        stops: Sequence[str] = (),
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.sampling = sampling or Sampling()
        self.stops = (*stops, *stop_strings(tokenizer, template))
        self.turn_ends = stop_ids(tokenizer, template)
        self.window = context_window(model)
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._opening)
        self._told = False
        self._render([{"role": "user", "content": "?"}])

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces. When it is done, or was closed half-way, question and answer are part of the conversation.

        Raises InputError before anything is generated if the question alone is longer than the model can read.
        """
        question = {"role": "user", "content": text}
        prompt = self._fit(question)
        return self._answer(question, prompt)

    def undo(self) -> str | None:
        """Take back the last question and its answer; returns the question, None if there is none."""
        if self.messages == self._opening:
            return None
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._opening)

    def _answer(self, question: Message, prompt: list[int]) -> Iterator[str]:
        said = ""
        sampling = _within(self.sampling, self.window, len(prompt))
        try:
            for piece in _trimmed(stream(self.model, self.tokenizer, prompt, sampling, self.stops, self.turn_ends)):
                said += piece
                yield piece
        finally:
            if said:
                self.messages += [question, {"role": "assistant", "content": said}]

    def _fit(self, question: Message) -> list[int]:
        """Token ids of as much of the conversation as leaves room for an answer. The oldest turns go first."""
        turns = self.messages[len(self._opening) :]
        prompt = self._render([*turns, question])
        if self.window is None:
            return prompt
        most = self.window - min(self.sampling.max_new_tokens, self.window // 2)
        while turns and len(prompt) > most:
            turns = turns[2:]
            self._say_forgotten()
            prompt = self._render([*turns, question])
        check_length(len(prompt), self.window)
        return prompt

    def _render(self, turns: list[Message]) -> list[int]:
        return render_prompt([*self._opening, *turns], self.tokenizer, self.template)

    def _say_forgotten(self) -> None:
        if not self._told:
            letter = "the conversation is longer than the %d tokens this model reads at once; its oldest turns are left out"
            logger.warning(letter, self.window)
        self._told = True


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    sampling: Sampling | None = None,
    stops: Sequence[str] = (),
) -> Iterator[str]:
    """The plain continuation of a text in pieces, without a chat template. Raises InputError if it leaves no room."""
    prompt = list(tokenizer(text)["input_ids"])
    if not prompt:
        raise InputError("the text to continue is empty")
    window = context_window(model)
    check_length(len(prompt), window)
    return stream(model, tokenizer, prompt, _within(sampling or Sampling(), window, len(prompt)), stops, context=len(prompt))


def check_length(length: int, window: int | None, name: str = "the prompt") -> None:
    """Raises InputError where a prompt of `length` tokens leaves no room for an answer. window None: no limit."""
    if window is not None and length >= window:
        raise InputError(f"{name} has {length} tokens and this model reads at most {window - 1} before its answer; shorten it")


def _within(sampling: Sampling, window: int | None, length: int) -> Sampling:
    room = sampling.max_new_tokens if window is None else min(sampling.max_new_tokens, window - length)
    return Sampling(room, sampling.temperature, sampling.top_p)


def _trimmed(pieces: Iterator[str]) -> Iterator[str]:
    trim = Trimmed()
    for piece in pieces:
        if text := trim.feed(piece):
            yield text
