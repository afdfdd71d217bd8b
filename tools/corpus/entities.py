"""Chats about companies and people: read from a profile, remembered without one, or politely not known."""

import random
from dataclasses import dataclass, field

from corpus.grammar import Attribute, attributes, fill, pick, question, statement
from corpus.values import company, person, value, words

Message = dict[str, str]
UNKNOWN = words(
    "I am sorry, I do not know that.|I have no information about {c}.|Sorry, nobody has told me that yet.|"
    "I do not know anything about {c}, sorry.|That is something I cannot tell you.|I am afraid I do not know.|"
    "I have never heard of {c}.|I do not know {c}, so I cannot say.|Unfortunately I have not learned that.|"
    "I would like to help, but I do not know {c}.|I wish I knew, but I do not.|Sorry, {c} is new to me.|"
    "I cannot answer that, because I know nothing about {c}.|I have no idea, I am sorry.|"
    "I do not have that information.|That is not known to me.",
    "|",
)
MISSING = words(
    "The profile does not say that.|That is not in the text.|I am sorry, I was not told that.|"
    "I do not see that in what you gave me.|I only know what is written here, and that is not in it.",
    "|",
)
SYSTEM_HEADS = words(
    "You are the assistant of {c}. |Here is what is known about {c}. |Facts about {c}: |Answer questions about {c}. |"
    "You help the visitors of {c}. ||",
    "|",
)
USER_HEADS = words(
    "Let me tell you about {c}. |Please remember this about {c}: |Read this. |Here are some notes on {c}. |"
    "This is from a leaflet. ||",
    "|",
)
THANKS = (
    ("Thank you!", "You are welcome."),
    ("Thanks a lot.", "It was a pleasure."),
    ("Great, thank you.", "Any time."),
    ("Good to know.", "I am glad I could help."),
    ("That helps.", "Happy to hear that."),
)
REPHRASE = words(
    "Say this in other words: {q}|Ask the same in another way: {q}|Can you rephrase this question? {q}|"
    "Find another way to ask: {q}|Reword this: {q}",
    "|",
)
TOPIC = ("What is this question about? {q}", "Name the topic of this question: {q}", "What does the person want? {q}")
TOPIC_ANSWERS = ("It is about the {n}.", "The {n}.", "The person asks for the {n}.", "The topic is the {n}.")


@dataclass
class Entity:
    """A company or person with some of its facts."""

    name: str
    facts: list[tuple[Attribute, str]] = field(default_factory=list)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def invent(rng: random.Random, count: int, kind: str = "attributes") -> Entity:
    """A new entity with `count` different facts."""
    chosen = rng.sample(attributes(kind), count)
    name = company(rng) if kind == "attributes" else person(rng)
    return Entity(name, [(attribute, value(rng, attribute.kind)) for attribute in chosen])


def _any(rng: random.Random, count: int) -> Entity:
    return invent(rng, count, "attributes" if rng.random() < 0.8 else "people")


def _profile(rng: random.Random, entity: Entity) -> str:
    lines = [statement(rng, attribute, entity.name, text) for attribute, text in entity.facts]
    rng.shuffle(lines)
    if not any(entity.name in line for line in lines):
        lines[0] = f"This is about {entity.name}. {lines[0]}"
    return " ".join(lines)


def exchange(rng: random.Random, entity: Entity, fact: tuple[Attribute, str]) -> list[Message]:
    """One question about a fact and its answer."""
    attribute, text = fact
    return [user(question(rng, attribute, entity.name)), assistant(statement(rng, attribute, entity.name, text))]


def open_book(rng: random.Random) -> list[Message]:
    """A profile in the system message or the first turn, then questions that it answers, or does not."""
    entity = _any(rng, pick(rng, (2, 3, 4, 5, 6, 7)))
    profile = _profile(rng, entity)
    asked = rng.sample(entity.facts, min(len(entity.facts), pick(rng, (1, 2, 2, 3, 4))))
    turns = [turn for fact in asked for turn in exchange(rng, entity, fact)]
    if rng.random() < 0.12:
        turns += _not_told(rng, entity)
    if rng.random() < 0.5:
        head = pick(rng, SYSTEM_HEADS).replace("{c}", entity.name)
        return [{"role": "system", "content": head + profile}, *turns]
    head = pick(rng, USER_HEADS).replace("{c}", entity.name)
    return [user(f"{head}{profile} {turns[0]['content']}"), *turns[1:]]


def _not_told(rng: random.Random, entity: Entity) -> list[Message]:
    known = {attribute.key for attribute, _ in entity.facts}
    kind = "attributes" if entity.facts[0][0] in attributes() else "people"
    other = pick(rng, [attribute for attribute in attributes(kind) if attribute.key not in known])
    return [user(question(rng, other, entity.name)), assistant(pick(rng, MISSING))]


def closed_book(rng: random.Random, world: list[Entity]) -> list[Message]:
    """A question about an entity of the fixed world; what it asks was only ever told in other chats."""
    entity = pick(rng, world)
    facts = rng.sample(entity.facts, pick(rng, (1, 1, 1, 2)))
    turns = [turn for fact in facts for turn in exchange(rng, entity, fact)]
    if rng.random() < 0.04:
        thanks, welcome = pick(rng, THANKS)
        turns += [user(thanks), assistant(welcome)]
    return turns


def unknown(rng: random.Random) -> list[Message]:
    """Questions about a company or person nobody has described: the answer says so."""
    entity = _any(rng, pick(rng, (1, 1, 2)))
    turns = []
    for attribute, _ in entity.facts:
        turns += [user(question(rng, attribute, entity.name)), assistant(fill(pick(rng, UNKNOWN), entity.name))]
    return turns


def same_again(rng: random.Random) -> list[Message]:
    """The user tells one fact, then asks for it in two different ways."""
    entity = _any(rng, 1)
    fact = entity.facts[0]
    told = statement(rng, fact[0], entity.name, fact[1])
    reply = pick(rng, ("I will remember that.", "Noted.", "Thank you for telling me.", "Good to know."))
    opening = [user(told if entity.name in told else f"About {entity.name}: {told}"), assistant(reply)]
    return opening + exchange(rng, entity, fact) + (exchange(rng, entity, fact) if rng.random() < 0.5 else [])


def rephrase(rng: random.Random) -> list[Message]:
    """A question said in other words, or named by its topic: phrasings of one attribute move together."""
    entity = _any(rng, 1)
    attribute = entity.facts[0][0]
    first = question(rng, attribute, entity.name)
    if rng.random() < 0.5:
        text = pick(rng, TOPIC_ANSWERS).replace("{n}", pick(rng, attribute.nouns))
        return [user(pick(rng, TOPIC).replace("{q}", first)), assistant(text)]
    return [user(pick(rng, REPHRASE).replace("{q}", first)), assistant(question(rng, attribute, entity.name))]
