"""How is a text cut that is longer than a sequence may be? Into windows that overlap by one token."""

from quatro.data.encode import IGNORED, Encoded


def windows(encoded: Encoded, length: int) -> list[Encoded]:
    """Windows of at most `length` tokens. A window's first token is context only: the window before has learned it."""
    starts = range(0, max(1, len(encoded.input_ids) - 1), length - 1)
    return [_window(encoded, start, start + length) for start in starts]


def _window(encoded: Encoded, start: int, end: int) -> Encoded:
    return Encoded(encoded.input_ids[start:end], [IGNORED, *encoded.labels[start + 1 : end]])
