"""The text on which the base model is pretrained: simple English, invented, endless, the same for the same seed.

    python tools/make_corpus.py --count 20 --seed 1          # look at it
    python tools/make_corpus.py --count 100000 --out corpus.jsonl

Every row is a chat {"messages": [...]} or a document {"text": "..."}.
"""

import argparse
import contextlib
import json
import random
import sys
from collections.abc import Iterator
from itertools import islice

from corpus.entities import Entity, closed_book, invent, open_book, rephrase, same_again, unknown
from corpus.everyday import everyday, play
from corpus.grammar import statement
from corpus.limits import beyond
from corpus.stories import story_chat, tale

WORLD_SEED, WORLD_COMPANIES, WORLD_PEOPLE = 2026, 120, 40
EARLY = {
    "open_book": 23,
    "closed_book": 20,
    "unknown": 13,
    "same_again": 6,
    "rephrase": 5,
    "everyday": 18,
    "play": 4,
    "story": 7,
    "tale": 2,
    "report": 2,
}
"""Shares of the kinds of rows while the base learns the language, and what lasts: asking in many ways."""
LATE = {
    "open_book": 30,
    "closed_book": 12,
    "unknown": 11,
    "same_again": 9,
    "rephrase": 4,
    "everyday": 13,
    "play": 6,
    "story": 5,
    "tale": 1,
    "report": 1,
    "beyond": 8,
}
LATE_SEED = 108
"""From this seed on the shares are LATE: more reading, and what a small model cannot do. Pretraining counts seeds up
from 100, one for about 165 steps, so this is the mixture of its end."""


def world() -> list[Entity]:
    """The fixed entities whose facts the base learns by heart."""
    rng = random.Random(WORLD_SEED)
    companies = [invent(rng, 14) for _ in range(WORLD_COMPANIES)]
    return companies + [invent(rng, 8, "people") for _ in range(WORLD_PEOPLE)]


def report(rng: random.Random, known: list[Entity]) -> dict:
    """A plain paragraph about an entity of the world or a new one."""
    entity = rng.choice(known) if rng.random() < 0.5 else invent(rng, 6)
    facts = rng.sample(entity.facts, 4)
    lines = [statement(rng, attribute, entity.name, text) for attribute, text in facts]
    return {"text": f"About {entity.name}. " + " ".join(lines)}


def row(rng: random.Random, known: list[Entity], shares: dict[str, int]) -> dict:
    """One chat or document, of a kind drawn by its share."""
    kind = rng.choices(tuple(shares), tuple(shares.values()))[0]
    if kind == "tale":
        return {"text": tale(rng)[0]}
    if kind == "report":
        return report(rng, known)
    if kind == "closed_book":
        return {"messages": closed_book(rng, known)}
    makers = {
        "open_book": open_book,
        "unknown": unknown,
        "same_again": same_again,
        "rephrase": rephrase,
        "everyday": everyday,
        "play": play,
        "story": story_chat,
        "beyond": beyond,
    }
    return {"messages": makers[kind](rng)}


def rows(seed: int) -> Iterator[dict]:
    """Endless rows; the same seed gives the same rows."""
    rng, known, shares = random.Random(seed), world(), LATE if seed >= LATE_SEED else EARLY
    while True:
        yield row(rng, known, shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="rows to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="-", help="a .jsonl file; - is the screen")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        stream = sys.stdout if options.out == "-" else stack.enter_context(open(options.out, "w", encoding="utf-8"))
        for item in islice(rows(options.seed), options.count):
            stream.write(json.dumps(item, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
