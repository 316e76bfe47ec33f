"""Facts: what users said of themselves and others, with where it was said. Pure.

A fact is (subject, attribute, normalised value, polarity) with its sightings. Which fact of an attribute holds follows
from the sightings alone, by `settle`: the order in which they arrive changes nothing, on no pod.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import orjson

from agentrt.memory.lexicon import normal
from agentrt.store.keys import derive_id

__all__ = [
    "SAFETY",
    "STATES",
    "Fact",
    "Sighting",
    "Statement",
    "drop_item",
    "fact_id",
    "forget",
    "observe",
    "settle",
    "shown",
]

SAFETY = frozenset(
    {"allergy", "allergies", "allergic_to", "intolerance", "intolerances", "sensitivity", "condition", "conditions"}
    | {"medical_condition", "diagnosis", "disease", "disability", "medication", "medications", "diet", "dietary"}
    | {"dietary_restriction", "dietary_restrictions", "blood_type", "pregnancy", "emergency_contact", "phobia"}
)
"""Attributes that are always in the context: overlooking one may hurt somebody."""

GUESSED, SAID, SET = 1, 2, 3
"""Ranks of a sighting: inferred or doubtful; said by the user; set by the user or the application on purpose."""

_SIGHTINGS_MAX = 256
_MARGIN = 0.1
"""A "no" about something that concerns safety may be this much less certain than the "yes" that it takes back."""

State = Literal["active", "superseded", "retracted", "forgotten"]
STATES = (*get_args(State), "expired")
"""All that `Fact.state_at` says."""


class Sighting(NamedTuple):
    """Where a fact was seen. `at` is the time of the event in ms, `until` when it ends by itself, or None."""

    item: str
    at: int
    rank: int
    confidence: float
    one: bool
    until: int | None
    quote: str


class Statement(NamedTuple):
    """What a message says: a fact, as it was drawn from it."""

    subject: str
    attribute: str
    value: str
    negative: bool
    sighting: Sighting
    pii: bool = False


@dataclass(slots=True)
class Fact:
    """One fact. `dropped` are items whose sighting was forgotten with it: they never bring it back."""

    id: str
    subject: str
    attribute: str
    value: str
    negative: bool = False
    sightings: dict[str, Sighting] = field(default_factory=dict)
    state: State = "active"
    pii: bool = False
    dropped: frozenset[str] = frozenset()
    pinned: bool = False
    """Set by somebody: in the context of every turn, whatever the question."""

    @property
    def best(self) -> Sighting:
        """The sighting that speaks for it: the highest rank, then the newest."""
        return max(self.sightings.values(), key=_strength)

    @property
    def until(self) -> int | None:
        """When it ends by itself, as last said."""
        return self.best.until

    @property
    def seen(self) -> int:
        """Time of the newest sighting, ms."""
        return max(sighting.at for sighting in self.sightings.values())

    def state_at(self, now_ms: int) -> str:
        """The state at a time: what was active and has ended is `expired`."""
        until = self.until if self.sightings else None
        return "expired" if self.state == "active" and until is not None and now_ms > until else self.state

    def encode(self) -> bytes:
        """The stored form."""
        stored = [list(sighting) for sighting in self.sightings.values()]
        return orjson.dumps(
            [
                self.subject,
                self.attribute,
                self.value,
                self.negative,
                self.state,
                self.pii,
                stored,
                sorted(self.dropped),
                *([True] if self.pinned else ()),  # pods of before read facts without
            ]
        )

    @classmethod
    def decode(cls, identifier: str, raw: bytes) -> Fact:
        """Read what `encode` wrote."""
        subject, attribute, value, negative, state, pii, stored, dropped, *pinned = orjson.loads(raw)
        sightings = {one[0]: Sighting(*one) for one in stored}
        return cls(identifier, subject, attribute, value, negative, sightings, state, pii, frozenset(dropped), *pinned)


def _strength(sighting: Sighting) -> tuple[Any, ...]:
    return (sighting.rank, sighting.at, sighting.confidence, sighting.item, sighting.one)


def attribute_name(text: str) -> str:
    """An attribute as it is kept."""
    return normal(text).replace(" ", "_")


def fact_id(subject: str, attribute: str, value: str, *, negative: bool) -> str:
    """The id of a fact: its key, hashed; the same wherever it comes from."""
    return derive_id("fact", normal(subject), attribute_name(attribute), normal(value), "-" if negative else "+")


def observe(facts: dict[str, Fact], statement: Statement) -> tuple[str, bool]:
    """Take a statement in. Returns (the fact's id, whether it said anything new); call `settle` after the last one."""
    identifier = fact_id(statement.subject, statement.attribute, statement.value, negative=statement.negative)
    fact = facts.get(identifier)
    seen = statement.sighting
    if fact is None:
        fact = facts[identifier] = Fact(
            identifier,
            normal(statement.subject),
            attribute_name(statement.attribute),
            " ".join(statement.value.split()).rstrip(".,;!? "),
            statement.negative,
        )
    if seen.item in fact.sightings or seen.item in fact.dropped:
        return identifier, False
    if fact.state == "forgotten":
        fact.value = " ".join(statement.value.split()).rstrip(".,;!? ")
    fact.sightings[seen.item] = seen
    fact.pii = fact.pii or statement.pii
    if len(fact.sightings) > _SIGHTINGS_MAX:
        del fact.sightings[min(fact.sightings, key=lambda item: _strength(fact.sightings[item]))]
    return identifier, True


def drop_item(facts: dict[str, Fact], item: str) -> list[str]:
    """An item is forgotten: what only it supported goes. Returns the ids of the facts that changed."""
    changed = []
    for fact in list(facts.values()):
        if fact.sightings.pop(item, None) is None:
            continue
        changed.append(fact.id)
        if fact.sightings:
            continue
        if fact.dropped:  # nobody says it any more: what is kept is which items must not say it again
            fact.value, fact.pinned = "", False
        else:
            del facts[fact.id]
    return changed


def forget(fact: Fact) -> None:
    """Forget a fact: nothing of it stays but which items had said it, lest they say it again."""
    fact.dropped |= set(fact.sightings)
    fact.sightings.clear()
    fact.value = ""
    fact.pinned = False
    fact.state = "forgotten"


def settle(facts: Mapping[str, Fact], groups: Iterable[tuple[str, str]] | None = None) -> None:
    """Decide the states of the facts of these (subject, attribute) groups; None: of all."""
    wanted = None if groups is None else set(groups)
    grouped: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts.values():
        key = (fact.subject, fact.attribute)
        if wanted is None or key in wanted:
            grouped[key].append(fact)
    for members in grouped.values():
        _settle(members)


def _settle(members: list[Fact]) -> None:
    for fact in members:
        fact.state = "active" if fact.sightings else "forgotten"
    held = [fact for fact in members if fact.sightings]
    if not held:
        return
    one = max((sighting for fact in held for sighting in fact.sightings.values()), key=_strength).one
    standing = [fact for fact in held if not fact.negative and fact.until is None]
    if one and standing:
        winner = max(standing, key=_standing)
        for fact in standing:
            if fact is not winner:
                fact.state = "superseded"
    for no in (fact for fact in held if fact.negative):
        _deny(no, [fact for fact in held if not fact.negative and _denies(no, fact)])


def _standing(fact: Fact) -> tuple[Any, ...]:
    best = fact.best
    return (best.rank, best.at, best.confidence, normal(fact.value))


def _denies(no: Fact, yes: Fact) -> bool:
    return not no.value or normal(no.value) == normal(yes.value)


def _deny(no: Fact, denied: list[Fact]) -> None:
    """A "no" that came later takes back the "yes", and then neither holds; one that is weaker or older is overruled."""
    for yes in denied:
        late, early = no.best, yes.best
        stronger = late.rank >= early.rank and late.at > early.at
        if stronger and yes.attribute in SAFETY:
            stronger = late.confidence >= early.confidence - _MARGIN
        if stronger:
            yes.state = no.state = "retracted"
        elif no.state == "active":
            no.state = "superseded"
    if not no.value:  # "none of it": there is nothing that it could state
        no.state = "retracted"


def shown(
    facts: Iterable[Fact], pinned: Callable[[Fact], bool], limit: int, now_ms: int = 0
) -> list[tuple[str, str, str, str, bool, int, int | None, bool, int]]:
    """The facts that turns are given, as (id, subject, attribute, value, negative, seen, until, pinned, rank).

    Pinned ones first, then what was set, then the newest; what had ended at `now_ms` takes the place of nothing else.
    """
    active = [fact for fact in facts if fact.state == "active" and fact.sightings]
    active.sort(
        key=lambda fact: (fact.state_at(now_ms) == "active", pinned(fact), fact.best.rank, fact.seen, fact.id),
        reverse=True,
    )
    return [
        (f.id, f.subject, f.attribute, f.value, f.negative, f.seen, f.until, pinned(f), f.best.rank)
        for f in active[:limit]
    ]
