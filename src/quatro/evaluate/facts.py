"""Whether an answer states a fact: a rule that anyone can run, instead of a reading."""

import re
import unicodedata
from collections.abc import Sequence

from quatro.format.errors import InputError


def states(answer: str, fact: str) -> bool:
    """Whether the fact's text stands in the answer, whatever the case and the white space.

    A fact that begins or ends with a digit is not found inside a longer number: 1763 is not in 17630.
    """
    wanted = _plain(fact)
    if not wanted:
        raise InputError("a fact is empty; every answer would contain it")
    before = r"(?<!\d)" if wanted[0].isdigit() else ""
    after = r"(?!\d)" if wanted[-1].isdigit() else ""
    return re.search(before + re.escape(wanted) + after, _plain(answer)) is not None


def fact_share(answers: Sequence[str], facts: Sequence[str | None]) -> float | None:
    """The share of answers that state their fact, from 0 to 1, among those that have one; None if none has."""
    judged = [states(answer, fact) for answer, fact in zip(answers, facts, strict=True) if fact is not None]
    return sum(judged) / len(judged) if judged else None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
