"""What memory is without what keeps it right: pins, keys, the generation. For negative controls only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentrt.memory import block, facts
from agentrt.memory.block import Known
from agentrt.memory.facts import Fact, Statement
from agentrt.runtime import ingestion
from agentrt.runtime.ledger import Ledger

__all__ = ["cosine", "generation", "keys", "pins", "without_generation"]

Cut = Callable[..., str]


def cosine(one: str, other: str) -> float:
    """Of character trigrams; embeddings of sentences as short as facts behave alike, only more so."""
    counts = [Counter(text[i : i + 3] for i in range(len(text) - 2)) for text in (one.casefold(), other.casefold())]
    dot = sum(counts[0][gram] * counts[1][gram] for gram in counts[0])
    return dot / (math.prod(math.sqrt(sum(n * n for n in count.values())) for count in counts) or 1.0)


def pins() -> None:
    """Which facts a turn is given, similarity to the question decides, and nothing else."""

    def chosen(profile: Sequence[Known], question: str) -> list[Known]:
        plain = [replace(one, pinned=False) for one in profile]
        return sorted(plain, key=lambda one: cosine(one.words, question), reverse=True)

    block._chosen = chosen


def keys() -> None:
    """Facts that are alike are one fact."""
    by_key = facts.observe

    def by_cosine(known: dict[str, Fact], statement: Statement) -> tuple[str, bool]:
        said = f"{statement.subject} {statement.attribute} {statement.value}"
        for fact in known.values():
            if cosine(f"{fact.subject} {fact.attribute} {fact.value}", said) > 0.75:
                fact.sightings[statement.sighting.item] = statement.sighting
                return fact.id, True
        return by_key(known, statement)

    ingestion.observe = by_cosine  # type: ignore[attr-defined]


def without_generation(cut: Cut, name: str, text: str) -> str:
    """Work of a life that was erased is let through, whatever it was begun with."""
    guards = {
        "user_remember.lua": ["if gen ~= '' and gen ~= now then return {'gone'} end"],
        "user_vectors.lua": ["if h[1] ~= gen then return {'gone'} end"],
        "user_resolve.lua": ["if h[1] ~= gen then return {'gone'} end", "if #late > 1 then return late end"],
    }
    for guard in guards.get(name, ()):
        text = cut(text, guard)
    return text


def generation() -> None:
    """The same in the pod: whatever life the user is in."""
    change = Ledger.change

    async def whatever(self: Ledger, user: Any, what: Any, *, gen: str = "", settled: Any = None) -> Any:
        return await change(self, user, what, settled=settled)

    Ledger.change = whatever  # type: ignore[method-assign]
