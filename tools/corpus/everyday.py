"""Small talk and simple common knowledge, in one or several turns."""

import random
from dataclasses import dataclass
from functools import cache

from corpus.entities import Message, assistant, user
from corpus.grammar import HERE, greeted, upper
from corpus.values import ADJECTIVES, ANIMALS, COLORS, THINGS, article, person, pick


@dataclass(frozen=True)
class Relation:
    """One kind of common knowledge: ways to ask, ways to answer, and the pairs."""

    asks: tuple[str, ...]
    answers: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def _lines(name: str) -> list[str]:
    text = (HERE / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@cache
def relations() -> tuple[Relation, ...]:
    """The blocks of knowledge.txt."""
    lines = _lines("knowledge.txt")
    starts = [index for index, line in enumerate(lines) if line.startswith("?")]
    return tuple(_relation(*lines[start : start + 3]) for start in starts)


def _relation(asks: str, answers: str, pairs: str) -> Relation:
    split = tuple((x.strip(), y.strip()) for x, y in (pair.split(":", 1) for pair in pairs.split(";")))
    return Relation(tuple(asks[2:].split(" | ")), tuple(answers[2:].split(" | ")), split)


@cache
def blocks(name: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """The blocks of a file such as smalltalk.txt: what is said, what is answered."""
    lines = _lines(name)
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return tuple((tuple(said.split(" | ")), tuple(reply[2:].split(" | "))) for said, reply in pairs)


def knowledge_turn(rng: random.Random) -> list[Message]:
    relation = pick(rng, relations())
    x, y = pick(rng, relation.pairs)
    ask = pick(rng, relation.asks).replace("{x}", x)
    if rng.random() < 0.15:
        ask = greeted(rng, ask, "")
    answer = pick(rng, relation.answers).replace("{x}", x).replace("{X}", upper(x))
    return [user(ask), assistant(answer.replace("{y}", y).replace("{Y}", upper(y)))]


def smalltalk_turn(rng: random.Random) -> list[Message]:
    said, replies = pick(rng, blocks("smalltalk.txt"))
    return [user(pick(rng, said)), assistant(pick(rng, replies))]


def everyday(rng: random.Random) -> list[Message]:
    """One to four turns of small talk and knowledge."""
    turns: list[Message] = []
    for _ in range(pick(rng, (1, 1, 2, 3, 4))):
        turns += knowledge_turn(rng) if rng.random() < 0.6 else smalltalk_turn(rng)
    return turns


def play(rng: random.Random) -> list[Message]:
    """Small tasks with words: copy, choose, join, describe, remember a name."""
    things = rng.sample(THINGS, pick(rng, (2, 3, 4)))
    listed, joined = ", ".join(things), ", ".join(things[:-1]) + " and " + things[-1]
    animal, adjective, color = pick(rng, ANIMALS), pick(rng, ADJECTIVES), pick(rng, COLORS)
    first = person(rng).split()[0]
    tasks = (
        (f"Repeat these words: {listed}", listed),
        (f"What is the first word of this list? {listed}", upper(things[0]) + "."),
        (f"What is the last word of this list? {listed}", upper(things[-1]) + "."),
        (f"Make a sentence with {joined}.", f"In the shop I saw {joined}."),
        (f"Describe {article(animal)}.", f"I see {article(adjective)} {animal} with {article(color)} hat."),
        (f"Is {article(animal)} an animal?", f"Yes, {article(animal)} is an animal."),
        (f"Write in big letters: {things[0]}", things[0].upper()),
        (f"Give me a name for my {animal}.", f"How about {upper(adjective)} {upper(color)}?"),
        (f"My name is {first}.", f"Nice to meet you, {first}.", "What is my name?", f"Your name is {first}."),
        (f"Hi, I am {first}.", f"Hello {first}! How are you?", "Do you remember my name?", f"Yes, you are {first}."),
    )
    return [(user, assistant)[place % 2](text) for place, text in enumerate(pick(rng, tasks))]
