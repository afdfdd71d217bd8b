"""What a small model can and cannot do beside its knowledge: kind refusals, little poems, sizes, abilities."""

import random

from corpus.entities import Message, assistant, user
from corpus.everyday import blocks, knowledge_turn, smalltalk_turn
from corpus.grammar import upper
from corpus.values import ADJECTIVES, ANIMALS, COLORS, COUNTRIES, SITES, THINGS, article, person, pick, word, words

BY_SIZE = words("ant bee mouse frog duck cat fox dog sheep pig donkey horse camel whale")
REGULAR = words("cat dog bear owl crow duck hen horse frog otter rabbit penguin")
ABLE = {
    "swim": ("fish", "duck", "frog", "otter", "seal", "whale"),
    "fly": ("owl", "crow", "bee", "goose", "swan"),
    "climb a tree": ("cat", "monkey", "squirrel", "bear"),
    "run fast": ("horse", "dog", "wolf", "hare"),
}
UNABLE = {
    "swim": ("spider", "hen"),
    "fly": ("cow", "horse", "pig", "fish", "cat", "mouse", "dog", "turtle"),
    "climb a tree": ("cow", "fish", "horse", "whale", "duck"),
    "run fast": ("snail", "turtle", "fish", "frog"),
}
POEM_ASKS = words(
    "Write a poem about {x}.|Make a little poem about {x}.|Can you write a verse about {x}?|"
    "I would like a poem on {x}.|"
    "Write a few lines about {x}.|A poem about {x}, please.",
    "|",
)
POEM_ENDS = (
    ("day", "The morning comes, the clouds are {color},", "I think of {x} all the {rhyme}."),
    ("night", "The wind is soft, the moon is bright,", "I dream of {x} every {rhyme}."),
    ("sea", "{animal} sat beside the {rhyme}", "and sang of {x}, just like me."),
    ("rain", "We saw {x} in the {rhyme},", "and then the sun came out again."),
    ("tree", "{animal} sat below a {rhyme}", "and told of {x}, wild and free."),
)


def _fill(text: str, places: dict[str, str]) -> str:
    for key, found in places.items():
        text = text.replace("{" + key + "}", found)
    return upper(text)


def beyond_turn(rng: random.Random) -> list[Message]:
    """A request that is too much, and a kind refusal."""
    said, replies = pick(rng, blocks("limits.txt"))
    places = {
        "thing": pick(rng, THINGS),
        "animal": pick(rng, REGULAR),
        "country": pick(rng, COUNTRIES),
        "word": pick(rng, (word(rng), word(rng).lower(), article(word(rng).lower()))),
        "person": person(rng),
        "site": pick(rng, SITES),
        "n": str(rng.randrange(1, 100)),
        "m": str(rng.randrange(1, 20)),
    }
    return [user(_fill(pick(rng, said), places)), assistant(_fill(pick(rng, replies), places))]


def poem_turn(rng: random.Random) -> list[Message]:
    """A wish for a poem and two to four lines of it."""
    animal, thing, site = pick(rng, ANIMALS), pick(rng, THINGS), pick(rng, SITES)
    topic = pick(rng, (f"the {animal}", thing, f"the {site}", "the sea", "the moon", "a friend"))
    lines = []
    for rhyme, first, second in rng.sample(POEM_ENDS, pick(rng, (1, 2))):
        places = {"x": topic, "rhyme": rhyme, "color": pick(rng, COLORS), "animal": article(pick(rng, ANIMALS))}
        lines += [_fill(first, places), _fill(second, places)]
    return [user(pick(rng, POEM_ASKS).replace("{x}", topic)), assistant("\n".join(lines))]


def size_turn(rng: random.Random) -> list[Message]:
    """Which of two animals is bigger."""
    small, big = (BY_SIZE[place] for place in sorted(rng.sample(range(len(BY_SIZE)), 2)))
    told = f"{article(big)} is bigger than {article(small)}"
    return [
        *pick(
            rng,
            (
                [user(f"Is {article(big)} bigger than {article(small)}?"), assistant(f"Yes, {told}.")],
                [user(f"Is {article(small)} bigger than {article(big)}?"), assistant(f"No, {told}.")],
                [user(f"Is {article(small)} smaller than {article(big)}?"), assistant(f"Yes, {told}.")],
                [user(f"Which is bigger, {article(small)} or {article(big)}?"), assistant(upper(told) + ".")],
                [user(f"What is bigger, {article(big)} or {article(small)}?"), assistant(upper(told) + ".")],
            ),
        )
    ]


def able_turn(rng: random.Random) -> list[Message]:
    """Whether an animal can swim, fly, climb or run."""
    deed = pick(rng, tuple(ABLE))
    if rng.random() < 0.5:
        animal = article(pick(rng, ABLE[deed]))
        return [user(f"Can {animal} {deed}?"), assistant(f"Yes, {animal} can {deed}.")]
    animal = article(pick(rng, UNABLE[deed]))
    return [user(f"Can {animal} {deed}?"), assistant(f"No, {animal} cannot {deed}.")]


def describe_turn(rng: random.Random) -> list[Message]:
    """A sentence about an animal or a thing."""
    one, thing = article(pick(rng, ANIMALS)), pick(rng, THINGS)
    return pick(
        rng,
        (
            [user(f"Tell me about {one}."), assistant(f"{upper(one)} is an animal. I like it very much.")],
            [user(f"Say something about {thing}."), assistant(f"There are {pick(rng, ADJECTIVES)} {thing} in many shops.")],
            [user(f"What is {one}?"), assistant(f"{upper(one)} is an animal.")],
        ),
    )


def beyond(rng: random.Random) -> list[Message]:
    """One to three turns, mostly at the edge of what the model can do."""
    turns: list[Message] = []
    for _ in range(pick(rng, (1, 1, 2, 3))):
        makers = (beyond_turn, poem_turn, size_turn, able_turn, describe_turn, knowledge_turn, smalltalk_turn)
        turns += rng.choices(makers, (46, 10, 10, 10, 6, 10, 8))[0](rng)
    return turns
