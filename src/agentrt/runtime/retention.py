"""How long what is remembered is kept, by tenant and kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from agentrt.errors import SettingsError
from agentrt.memory import turns
from agentrt.memory.facts import Fact

__all__ = ["Retention", "Retentions"]

_SLACK = 20
"""What is due within this part of its time is taken away together."""
_SOONEST_S = 60


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each kind is kept, in seconds, and how much; 0: no bound beside that of the user as a whole.

    `turns_s` and `summaries_s` count from when they were remembered, `facts_s` from when they were said or set last,
    `ended_facts_s` from the end that a fact had from the beginning.
    """

    turns_s: int = 0
    summaries_s: int = 0
    facts_s: int = 0
    ended_facts_s: int = 30 * 86_400
    turns_max: int = 50_000

    def turn_ends(self, turn: turns.Memory) -> int | None:
        """When a turn or a summary is to go, ms; None: not by itself."""
        kept_s = self.summaries_s if turn.role == turns.SUMMARY else self.turns_s
        return turn.kept + kept_s * 1000 if kept_s else None

    def fact_ends(self, fact: Fact) -> int | None:
        """When a fact is to go, ms; None: not by itself."""
        if not fact.sightings:
            return None
        ends = [fact.seen + self.facts_s * 1000] if self.facts_s else []
        if fact.until is not None:
            ends.append(fact.until + self.ended_facts_s * 1000)
        return min(ends, default=None)

    @property
    def first_s(self) -> int | None:
        """How long what was remembered just now stays for sure; None: for ever."""
        return min((one for one in (self.turns_s, self.summaries_s, self.facts_s) if one), default=None)

    def look_again(self, ends: Iterable[int | None], now_ms: int) -> int | None:
        """When to look at a user again of whom things are left that end then; None: not because of time."""
        due = min((end for end in ends if end is not None), default=None)
        if due is None:
            return None
        shortest_s = min(self.first_s or self.ended_facts_s, self.ended_facts_s)
        return max(due, now_ms + 1000 * max(_SOONEST_S, shortest_s // _SLACK))


@dataclass(frozen=True, slots=True)
class Retentions:
    """The retention of each tenant that has one of its own, and of all others."""

    default: Retention = Retention()
    tenants: Mapping[str, Retention] = field(default_factory=dict)

    def of(self, tenant: str) -> Retention:
        """That of a tenant."""
        return self.tenants.get(tenant, self.default)

    @classmethod
    def read(cls, path: str, default: Retention) -> Retentions:
        """The file of the setting: `{tenant: {turns_s, summaries_s, facts_s, ended_facts_s, turns_max}}`; what is not
        said is as for all. An empty path: nobody has one of his own. Raises `SettingsError`.
        """
        if not path:
            return cls(default)
        try:
            raw: Any = orjson.loads(Path(path).read_bytes())
            return cls(default, {str(tenant): _changed(default, one) for tenant, one in raw.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SettingsError(f"AGENTRT_MEMORY_RETENTION_FILE: {error}") from error


def _changed(default: Retention, raw: dict[str, Any]) -> Retention:
    known = {one.name for one in fields(Retention)}
    for name, value in raw.items():
        if name not in known or type(value) is not int or value < 0:
            raise ValueError(f"{name!r}: {value!r} is none of {sorted(known)} with a whole number from 0 on")
    return replace(default, **raw)
