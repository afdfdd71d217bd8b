"""Questions: how one attribute of one company or person is asked in hundreds of ways, and told in a few."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corpus.values import pick, words

HERE = Path(__file__).parent

CLAUSE_FRAMES = words(
    "Do you know {x}?|Can you tell me {x}?|Could you tell me {x}, please?|I wonder {x}.|I would like to know {x}.|"
    "Please tell me {x}.|Tell me {x}.|Have you any idea {x}?|May I ask {x}?|I want to find out {x}.|"
    "I forgot {x}. Can you help?|Someone asked me {x}. What should I say?|My friend wants to know {x}.|"
    "I am trying to remember {x}.|Would you mind telling me {x}?|Any idea {x}?|It would help me to know {x}.|"
    "Do you happen to know {x}?|Let me know {x}, please.|I have no idea {x}. Do you?|I am curious {x}.|"
    "Can you find out {x}?|Nobody could tell me {x}. Can you?|I was wondering {x}.|I need to know {x}.",
    "|",
)
NOUN_FRAMES = words(
    "What is {x}?|Tell me {x}.|Please give me {x}.|I need {x}.|I am looking for {x}.|Can you give me {x}?|"
    "Could you tell me {x}, please?|{x}, please.|{x}?|Do you know {x}?|I would like to know {x}.|"
    "What can you tell me about {x}?|What about {x}?|Please name {x}.|I have a question about {x}.|"
    "My question is about {x}.|Remind me of {x}.|Give me {x}.|I forgot {x}.|What would be {x}?|And {x}?|"
    "Can you help me with {x}?|I was looking for {x} but could not find it.|Would you share {x} with me?|"
    "Somebody wants to know {x}.",
    "|",
)
SHORT_FRAMES = words("{c}, {n}?|{c}: {n}?|{n} of {c}?|{n} at {c}?|{c} {n}", "|")
OPENERS = words(
    "Hello! |Hi, |Excuse me, |Quick question: |Sorry, |Good morning! |Good day. |Please, |Hey, |One more thing: |"
    "I have a question. |Tell me: |Just wondering, |By the way, |So, |Okay, ",
    "|",
)


SHAPES = ("ask", "clause", "noun")


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known, with the ways to name, ask and tell it (see attributes.txt)."""

    key: str
    kind: str
    nouns: tuple[str, ...]
    asks: tuple[str, ...]
    clauses: tuple[str, ...]
    tells: tuple[str, ...]


def _block(text: str) -> Attribute:
    head, *lines = text.strip().splitlines()
    key, kind = head.rstrip("]").split()
    parts = dict(line.split(": ", 1) for line in lines)
    fields = (tuple(parts[name].split(" | ")) for name in ("noun", "ask", "clause", "tell"))
    return Attribute(key, kind, *fields)


@cache
def attributes(name: str = "attributes") -> tuple[Attribute, ...]:
    """All attributes of a file: "attributes" (companies) or "people"."""
    text = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(_block(block) for block in body.split("\n[")[1:])


def fill(pattern: str, entity: str, value: str = "") -> str:
    """A pattern with the entity's name, its possessive and the value put in."""
    possessive = entity + ("'" if entity.endswith("s") else "'s")
    text = pattern.replace("{c}", entity).replace("{s}", possessive).replace("{v}", value)
    return upper(text)


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower(text: str, entity: str = "") -> str:
    """The text with a small first letter, unless it begins with a name or with "I"."""
    if (entity and text.startswith(entity)) or text.split(" ", 1)[0] in ("I", "I'm"):
        return text
    return text[:1].lower() + text[1:]


def noun_phrase(rng: random.Random, entity: str, noun: str) -> str:
    shape = rng.random()
    if shape < 0.45:
        return f"the {noun} of {entity}"
    return fill("{s} ", entity) + noun


def wordings(attribute: Attribute) -> list[tuple[str, str]]:
    """Every core wording of an attribute with its shape: ask, clause or noun."""
    return [(shape, core) for shape in SHAPES for core in getattr(attribute, shape + "s")]


def phrase(rng: random.Random, shape: str, core: str, entity: str) -> str:
    """A question from a core wording: as it is, inside a frame for clauses, or inside a frame for nouns."""
    if shape == "ask":
        return fill(core, entity)
    if shape == "clause":
        return upper(pick(rng, CLAUSE_FRAMES).replace("{x}", core.replace("{c}", entity)))
    if rng.random() < 0.15:
        return upper(pick(rng, SHORT_FRAMES).replace("{n}", core).replace("{c}", entity))
    return upper(pick(rng, NOUN_FRAMES).replace("{x}", noun_phrase(rng, entity, core)))


def greeted(rng: random.Random, text: str, entity: str) -> str:
    """The question after a greeting or another opener."""
    opener = pick(rng, OPENERS)
    return opener + (text if opener.rstrip()[-1] in ".!" else lower(text, entity))


def question(rng: random.Random, attribute: Attribute, entity: str) -> str:
    """A question about the attribute, sometimes greeted, sometimes typed carelessly in lower case."""
    shape = rng.choices(SHAPES, (42, 26, 32))[0]
    text = phrase(rng, shape, pick(rng, getattr(attribute, shape + "s")), entity)
    manner = rng.random()
    if manner < 0.14:
        return greeted(rng, text, entity)
    return text.rstrip("?.").lower() if manner < 0.18 else text


def statement(rng: random.Random, attribute: Attribute, entity: str, value: str) -> str:
    """A sentence that tells the value."""
    return fill(pick(rng, attribute.tells), entity, value)
