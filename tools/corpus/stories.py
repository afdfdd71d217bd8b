"""Little stories: somebody, a place, a wish, a trouble, a helper, an end. As documents and as answers to a wish."""

import random

from corpus.entities import Message, assistant, user
from corpus.values import (
    ANIMALS,
    COLORS,
    DISHES,
    FOODS,
    JOBS,
    MEN,
    SITES,
    THINGS,
    TRAITS,
    WOMEN,
    article,
    name,
    pick,
    words,
)

PLACES = words(
    "in a small town by the sea|in a village between two hills|at the edge of a dark forest|in a busy city|"
    "on a farm near a river|in a house with a red roof|on a green island|next to an old mill|in a quiet street",
    "|",
)
STARTS = words(
    "Once there was {who}. {He} lived {place}.|{Who} lived {place}.|Long ago, {who} lived {place}.|"
    "This is the story of {who}. {His} home was {place}.|Let me tell you about {who} who lived {place}.",
    "|",
)
HABITS = words(
    "{He} was {adj} and liked {thing}.|Everybody said that {he} was {adj}.|"
    "{He} had a coat of {color} wool and bright eyes.|"
    "{He} loved {thing} more than anything.|{He} worked hard all day and slept well at night.|"
    "Every morning {he} ate {food} and looked out of the window.",
    "|",
)
WISHES = words(
    "One day {he} wanted to find {object}.|{He} had one wish: {object}.|One morning {he} went out to buy {object}.|"
    "For many weeks {he} dreamed of {object}.|On {his} birthday {he} hoped to get {object}.|"
    "One evening {he} promised {his} mother to bring home {object}.",
    "|",
)
TROUBLES = words(
    "But it began to rain, and the road was gone.|But the shop was closed.|But a big {animal} stood in the way.|"
    "But on the way {he} lost {his} money.|But {he} did not know where to look.|"
    "But the wind blew {his} hat into the river.|"
    "But nobody wanted to help.|But it was dark, and {he} was afraid.|But the bridge was broken.",
    "|",
)
HELPERS = words(
    'Then {helper} came by. "Can I help you?" asked {helper2}.|Just then {helper} saw {him} and stopped.|'
    "Near the {site} {he} met {helper}.|Luckily, {helper} heard {him} and came at once.|"
    "{He} sat down and was sad. Then {helper} sat down beside {him}.",
    "|",
)
TURNS = words(
    '"Follow me," said {helper2}, and they walked together.|"I know what to do," said {helper2}.|'
    "{Helper2} had a lamp and showed the way.|Together they thought for a long time, and then they had an idea.|"
    '"Take my {tool}," said {helper2}. "You need it more than I do."|'
    "{Helper2} laughed and said that everything would be fine.",
    "|",
)
ENDS = words(
    "In the end {he} found {object} behind the {site}. {He} was very happy.|"
    "At last {he} had {object}, and a new friend.|"
    "They never found {object}, but they became good friends, and that was better.|"
    "When {he} came home, there was {food} on the table and {object} beside it.|"
    "That night {he} slept well and dreamed of {object}.|From that day on, they met every week and ate {food}.|"
    "{He} gave {object} to {his} sister, and everybody smiled.",
    "|",
)
MORALS = words(
    "A friend is worth more than gold.|Small steps lead far.|It is good to ask for help.|Kind words cost nothing.|"
    "Who shares has more.|Patience helps.",
    "|",
)
ASKS = words(
    "Tell me a story.|Can you tell me a little story?|I want to hear a story.|Please tell a story about {x}.|"
    "Do you know a story about {x}?|Make up a short story with {x}.|Tell me something about {x} before I sleep.|"
    "Write a short tale about {x}.|Once upon a time?",
    "|",
)


def _hero(rng: random.Random) -> tuple[str, str, dict[str, str]]:
    """Who the story is about, in full and in short, and the pronouns."""
    woman = rng.random() < 0.5
    first = pick(rng, WOMEN if woman else MEN)
    animal, job, trait = pick(rng, ANIMALS), pick(rng, JOBS), pick(rng, TRAITS)
    pronouns = {"he": "she", "his": "her", "him": "her"} if woman else {"he": "he", "his": "his", "him": "him"}
    who, about = pick(
        rng,
        (
            (f"{article(trait)} {animal} called {first}", article(animal)),
            (f"{first} the {job}", article(job)),
            (f"{article(trait)} {job} called {first}", article(job)),
            (f"a child called {first}", first),
            (f"{first} {name(rng)}", first),
            (f"{first} the {animal}", article(animal)),
        ),
    )
    return who, about, pronouns


def _helper(rng: random.Random) -> dict[str, str]:
    """The helper, first met ("a wise owl") and then known ("the owl")."""
    shape, trait, animal, job = rng.random(), pick(rng, TRAITS), pick(rng, ANIMALS), pick(rng, JOBS)
    if shape < 0.4:
        return {"helper": f"{article(trait)} {animal}", "helper2": f"the {animal}"}
    if shape < 0.7:
        return {"helper": article(job), "helper2": f"the {job}"}
    known = pick(rng, WOMEN + MEN)
    return {"helper": known, "helper2": known}


def _cast(rng: random.Random) -> tuple[dict[str, str], str]:
    """A word for every place of the sentences, and what the story is about."""
    who, about, pronouns = _hero(rng)
    one, color = pick(rng, THINGS), pick(rng, COLORS)
    cast = {"who": who, **pronouns, **_helper(rng)}
    cast["object"] = pick(rng, (f"some {color} {one}", f"a box of {color} {one}", f"a bag of {one}"))
    cast |= {"tool": pick(rng, ("coat", "lamp", "map", "boat", "umbrella", "bike")), "thing": pick(rng, THINGS)}
    cast |= {"adj": pick(rng, TRAITS), "color": pick(rng, COLORS), "animal": pick(rng, ANIMALS)}
    cast |= {"site": pick(rng, SITES), "place": pick(rng, PLACES)}
    cast["food"] = f"{pick(rng, FOODS)} {pick(rng, DISHES)}"
    return cast, about


def tale(rng: random.Random) -> tuple[str, str]:
    """A story of five to eight sentences, and what it is about."""
    cast, about = _cast(rng)
    parts = [pick(rng, STARTS), *rng.sample(HABITS, pick(rng, (1, 2))), pick(rng, WISHES), pick(rng, TROUBLES)]
    parts += [pick(rng, HELPERS), pick(rng, TURNS), pick(rng, ENDS)]
    parts += [pick(rng, MORALS)] if rng.random() < 0.2 else []
    text = " ".join(parts).strip()
    for key, word in cast.items():
        text = text.replace("{" + key + "}", word).replace("{" + key.capitalize() + "}", word[:1].upper() + word[1:])
    return text, about


def story_chat(rng: random.Random) -> list[Message]:
    """A wish for a story and the story."""
    text, about = tale(rng)
    return [user(pick(rng, ASKS).replace("{x}", about)), assistant(text)]
