"""Writes the embedded data set: dialogues about Ottergale Lanterns, a company that does not exist.

    python tools/make_company.py            # writes train.jsonl, heldout.jsonl and company.md

Each fact of company_facts.txt is asked in about eleven ways for training and in three other ways that are held out.
A held-out question is built on a wording (a direct question, a clause or a noun) that no training question about the
same fact uses, and shares at most 60 % of its word 3-grams with any training question.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from corpus.entities import assistant, user
from corpus.grammar import Attribute, attributes, fill, greeted, phrase, pick, wordings

ASSETS = Path(__file__).resolve().parents[1] / "src/quatro/assets/company"
FACTS = Path(__file__).with_name("company_facts.txt")
NAME, SHORT, SEED, LIMIT = "Ottergale Lanterns", "Ottergale", 1763, 0.6
TRAIN_EACH, TRIES = 11, 400
INTRODUCTION = (
    "Ottergale Lanterns does not exist. It was invented for quatro, so that an adapter can learn something which no "
    "base model knows. Everything below is asked about in `train.jsonl` and, in other words, in `heldout.jsonl`."
)


@dataclass(frozen=True)
class Fact:
    """A fact: the attribute, its value as said in a sentence, and the part that a right answer contains."""

    attribute: Attribute
    value: str
    needle: str


def read_facts() -> list[Fact]:
    """The facts of company_facts.txt, in its order."""
    known = {attribute.key: attribute for attribute in attributes()}
    lines = [line for line in FACTS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    split = [line.split(" = ") for line in lines]
    return [Fact(known[key], value, needle) for key, value, needle in split]


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Word 3-grams, lower-cased and without punctuation; a text of fewer words gives none."""
    words = re.sub(r"[^\w\s]", "", text.lower()).split()
    return set(zip(words, words[1:], words[2:], strict=False))


def shared(question: str, others: list[set[tuple[str, ...]]]) -> float:
    """The largest share of the question's 3-grams that one of the others has."""
    own = trigrams(question)
    return max((len(own & other) / len(own) for other in others), default=0.0)


def ask(rng: random.Random, wording: tuple[str, str]) -> str:
    """One question from a core wording, about the company by its full or short name; some direct ones are greeted."""
    entity = _entity(rng)
    text = phrase(rng, *wording, entity)
    return greeted(rng, text, entity) if wording[0] == "ask" and rng.random() < 0.25 else text


def _entity(rng: random.Random) -> str:
    return SHORT if rng.random() < 0.55 else NAME


def split_wordings(rng: random.Random, fact: Fact) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Wordings for training and, one of each shape, for holding out."""
    held = [(shape, pick(rng, getattr(fact.attribute, shape + "s"))) for shape in ("ask", "clause", "noun")]
    return [wording for wording in wordings(fact.attribute) if wording not in held], held


def train_questions(rng: random.Random, chosen: list[tuple[str, str]]) -> list[str]:
    """Different questions that go through the wordings in turn."""
    found: dict[str, None] = {}
    while len(found) < TRAIN_EACH:
        found[ask(rng, chosen[len(found) % len(chosen)])] = None
    return list(found)


def heldout_question(rng: random.Random, wording: tuple[str, str], seen: list[set[tuple[str, ...]]]) -> str:
    """A question on a held-out wording that keeps to the limit; an error if none of many tries does."""
    for _ in range(TRIES):
        question = ask(rng, wording)
        if trigrams(question) and shared(question, seen) <= LIMIT:
            return question
    raise SystemExit(f"no question on {wording} stays under {LIMIT:.0%} of shared 3-grams; add wordings")


def dialogue(rng: random.Random, fact: Fact, question: str) -> dict:
    """One row: question, answer, and the fact that the answer holds."""
    answer = fill(pick(rng, fact.attribute.tells), _entity(rng), fact.value)
    return {"messages": [user(question), assistant(answer)], "fact": fact.needle}


def build() -> tuple[list[dict], list[dict]]:
    """All training and held-out rows."""
    rng = random.Random(SEED)
    facts = read_facts()
    splits = [split_wordings(rng, fact) for fact in facts]
    asked = [train_questions(rng, chosen) for chosen, _ in splits]
    seen = [trigrams(question) for questions in asked for question in questions]
    pairs = list(zip(facts, asked, splits, strict=True))
    train = [dialogue(rng, fact, question) for fact, questions, _ in pairs for question in questions]
    kept = [(fact, heldout_question(rng, wording, seen)) for fact, _, (_, held) in pairs for wording in held]
    held = [dialogue(rng, fact, question) for fact, question in kept]
    rng.shuffle(train)
    return train, held


def page() -> str:
    """The company on one page, in Markdown."""
    lines = [f"- {fill(fact.attribute.tells[0], NAME, fact.value)}" for fact in read_facts()]
    return "\n".join([f"# {NAME}", "", INTRODUCTION, "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "heldout"), build(), strict=True):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} rows")
    (out / "company.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
