"""A data set for recall with known answers: `python -m tests.memory.dataset --seed 1 --items I --questions Q`.

People talk with an assistant over months: each tells, now and then, of things that are theirs (a trip, a pet, a job, a
meal, ...), between small talk that uses the same words. Questions ask for one of those things, in other words, by what
was said with it, or by its month. What is asked and what was said share a name or a topic, never a sentence.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NAMES = [
    "Ada",
    "Bela",
    "Carla",
    "Dino",
    "Emil",
    "Fatou",
    "Gero",
    "Hana",
    "Ilse",
    "Jamal",
    "Kofi",
    "Lena",
    "Mira",
    "Nils",
    "Olga",
    "Pavel",
    "Quinn",
    "Rosa",
    "Sven",
    "Tara",
]
PLACES = [
    "Porto",
    "Oslo",
    "Lima",
    "Kyoto",
    "Bergen",
    "Quito",
    "Turin",
    "Cork",
    "Split",
    "Graz",
    "Nantes",
    "Bilbao",
    "Riga",
    "Bern",
    "Lyon",
    "Ghent",
]
PETS = ["otter", "parrot", "beagle", "tortoise", "hamster", "goat", "pony", "ferret"]
JOBS = [
    "a bakery",
    "a shipyard",
    "a law firm",
    "the town archive",
    "a bicycle shop",
    "a cheese dairy",
    "an observatory",
    "a theatre",
]
MEALS = [
    "lentil soup",
    "mushroom risotto",
    "fish curry",
    "plum dumplings",
    "pepper stew",
    "rye pancakes",
    "leek tart",
    "bean salad",
]
THINGS = [
    "kayak",
    "accordion",
    "telescope",
    "loom",
    "sewing machine",
    "cello",
    "camper van",
    "printing press",
    "record player",
]
BOOKS = [
    "the one on tides",
    "a book of maps",
    "that crime story",
    "the history of salt",
    "a novel about bees",
    "the poems",
]
SMALL_TALK = [
    "How are you today?",
    "The weather is lovely, is it not?",
    "Can you help me to plan my week?",
    "I slept badly.",
    "What do you think of trips in general?",
    "Dogs are nice animals.",
    "Work is busy at the moment.",
    "Tell me a joke.",
    "I had soup for lunch, nothing special.",
    "Music makes me happy.",
    "I read a little yesterday evening.",
    "My brother called and we talked for long.",
    "I should move more.",
    "The train was late again.",
    "I forgot where I put my keys.",
    "What would you cook for guests?",
    "The garden needs water.",
    "I may go out tonight.",
]
REPLIES = [
    "That sounds good.",
    "I see.",
    "Shall I write that down?",
    "Of course.",
    "Thank you for telling me.",
    "Sure.",
]

# What is said (and remembered), and questions for it. {n} somebody, {p} a place, {x} what it is about.
TOPICS: Sequence[tuple[str, str, Sequence[str], Sequence[str]]] = (
    (
        "trip",
        "We went to {p} with {n} and it rained every day.",
        PLACES,
        ("Who came along when I travelled to {p}?", "Which city did I visit together with {n}?"),
    ),
    (
        "pet",
        "{n} gave me a {x}, and I am going to call it {q}.",
        PETS,
        ("What is the name of my {x}?", "From whom did I get the {x}?"),
    ),
    (
        "job",
        "Since Monday I have been working at {x}, where {n} is my boss.",
        JOBS,
        ("Who do I report to at {x}?", "Where does {n} supervise me?"),
    ),
    (
        "meal",
        "For the birthday of {n} I cooked {x}.",
        MEALS,
        ("What did I make for {n} to eat?", "Whose birthday was it when I cooked {x}?"),
    ),
    (
        "thing",
        "I sold my {x} to {n} for {q} euros.",
        THINGS,
        ("How much did {n} pay me?", "Who bought the {x} from me?"),
    ),
    ("book", "{n} lent me {x} and wants it back soon.", BOOKS, ("What do I have to return to {n}?", "Whose is {x}?")),
    (
        "health",
        "The doctor in {p} said that I must not eat {x}; {n} had warned me.",
        MEALS,
        ("Which food was I told to avoid by the physician in {p}?", "What had {n} warned me of?"),
    ),
)


@dataclass
class Person:
    """What one user has said so far."""

    user: str
    items: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def _told(person: Person, chance: random.Random) -> tuple[str, list[str]] | None:
    """Something that is told, and questions that nothing else which this user said answers."""
    kind, said, choices, questions = chance.choice(TOPICS)
    parts = {"n": chance.choice(NAMES), "p": chance.choice(PLACES), "x": chance.choice(choices)}
    parts["p"] = parts["x"] if choices is PLACES else parts["p"]
    parts["q"] = chance.choice(NAMES) if kind == "pet" else str(chance.randrange(20, 900))
    keys = {f"{kind}/{name}/{parts[name]}" for name in ("n", "x")}
    if keys & person.used:
        return None
    person.used |= keys
    return said.format(**parts), [question.format(**parts) for question in questions]


def _session(person: Person, number: int, begun: datetime, chance: random.Random) -> None:
    conversation, at = f"{person.user}-{number}", begun
    for turn in range(chance.randrange(6, 14)):
        told = _told(person, chance) if chance.random() < 0.25 else None
        text = told[0] if told else chance.choice(SMALL_TALK)
        for role, said in (("user", text), ("assistant", chance.choice(REPLIES))):
            identifier = f"{conversation}-{turn}-{role}"
            moment = at.isoformat().replace("+00:00", "Z")
            person.items.append(
                {"user": person.user, "id": identifier, "text": said, "role": role, "at": moment,
                 "conversation": conversation}
            )  # fmt: skip
            at += timedelta(minutes=1)
        if told:
            question = chance.choice(told[1])
            if chance.random() < 0.2:
                question += f" It was in {begun:%B %Y}."
            wanted = f"{conversation}-{turn}-user"
            person.questions.append({"user": person.user, "question": question, "items": [wanted]})


def generate(seed: int, users: int = 10, sessions: int = 40) -> Iterator[Person]:
    """The people of a data set; the same for the same numbers."""
    chance = random.Random(seed)
    for number in range(users):
        person, begun = Person(f"p{number}"), datetime(2024, 1, 1, 9, tzinfo=UTC)
        for session in range(sessions):
            _session(person, session, begun, chance)
            begun += timedelta(days=chance.randrange(1, 12), minutes=chance.randrange(600))
        yield person


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--items", required=True)
    parser.add_argument("--questions", required=True)
    arguments = parser.parse_args()
    people = list(generate(arguments.seed, arguments.users, arguments.sessions))
    for path, rows in (
        (arguments.items, [item for person in people for item in person.items]),
        (arguments.questions, [question for person in people for question in person.questions]),
    ):
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)}")


if __name__ == "__main__":
    main()
