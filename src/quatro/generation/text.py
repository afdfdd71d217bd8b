"""Text that grows token by token: whole characters only, and never a piece of a stop string."""

from collections.abc import Iterable
from enum import Enum

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for bytes that are not yet a whole character."""


class End(Enum):
    """Why a text ended: the model said so, or it was cut in the middle."""

    OWN = "own"
    CUT = "cut"


class TokenText:
    """Decodes tokens as they come. A character whose bytes are spread over several tokens is given when it is whole.

    context: tokens before the first one, which decide about a leading space and are not given back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids = list(context)
        self.start, self.given = 0, len(self.ids)

    def feed(self, token: int) -> str:
        """The text that this token completes; often "" in the middle of a character."""
        self.ids.append(token)
        text = self._new()
        if not text or text.endswith(UNFINISHED):
            return ""
        self.start, self.given = self.given, len(self.ids)
        return text

    def flush(self) -> str:
        """What is left at the end, also if its last character never became whole."""
        text, self.given = self._new(), len(self.ids)
        return text

    def _new(self) -> str:
        """Decoded together with the piece before it, because a tokenizer may treat the first token differently."""
        before = self._decode(self.ids[self.start : self.given])
        return self._decode(self.ids[self.start :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopText:
    """Passes text through until a stop string appears; holds back what could be the beginning of one.

    `stopped` is true once a stop string was found. Neither it nor anything after it is ever given.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self.held, self.stopped = "", False

    def feed(self, piece: str) -> str:
        """The text that is certain not to belong to a stop string."""
        if self.stopped:
            return ""
        text = self.held + piece
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.held, self.stopped = "", True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self, end: End) -> str:
        """What was held back. A text that was cut loses it; one that ended by itself keeps it, but for a bare marker (###)."""
        held, self.held = self.held, ""
        return "" if end is End.CUT or any(_is_marker(held, stop) for stop in self.stops) else held


class AnswerText:
    """The text of one answer, from the tokens that a model writes after its prompt. `done` once it has ended.

    ends: tokens that end an answer and are no part of it. limit: how many tokens it may have.
    context: tokens before the first one, see TokenText.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Iterable[str],
        ends: Iterable[int],
        limit: int,
        context: Iterable[int] = (),
    ) -> None:
        self.decoder, self.stops = TokenText(tokenizer, context), StopText(stops)
        self.ends, self.left = frozenset(ends), limit
        self.end, self.done = End.CUT, False

    def hear(self, token: int) -> str:
        """The text that is certain after this token. Tokens after the end are not heard."""
        if self.done:
            return ""
        if token in self.ends:
            self.end, self.done = End.OWN, True
            return ""
        self.left -= 1
        text = self.stops.feed(self.decoder.feed(token))
        self.done = self.stops.stopped or self.left <= 0
        return text

    def finish(self) -> str:
        """What was held back, as far as it may be seen."""
        return self.stops.feed(self.decoder.flush()) + self.stops.flush(self.end)


class Trimmed:
    """Passes text through without white space at its two ends."""

    def __init__(self) -> None:
        self.begun, self.space = False, ""

    def feed(self, piece: str) -> str:
        """The text up to its last visible character; the white space after it waits for more."""
        text = self.space + (piece if self.begun else piece.lstrip())
        visible = text.rstrip()
        self.begun = self.begun or bool(visible)
        self.space = text[len(visible) :]
        return visible


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of text are the beginning of stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _is_marker(held: str, stop: str) -> bool:
    """Whether the held text reaches over the stop string's first word."""
    word = stop.split()[0] if stop.split() else stop
    return stop.startswith(held) and held.lstrip().startswith(word)
