"""Changing the facts of a user: read, change, settle, and write if nobody else wrote meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from agentrt.agent import Agent
from agentrt.errors import StoreUnavailable, UserGone
from agentrt.memory.facts import SAFETY, Fact, settle, shown
from agentrt.runtime.clock import wall_ms
from agentrt.store.keys import UserKeys, new_id
from agentrt.store.users import Users

__all__ = ["Ledger", "pinned_by", "read_facts"]

_TRIES = 50
_PROFILE_FACTS = 64
_PROFILE_BYTES = 16_384

Change = Callable[[dict[str, Fact]], Iterable[str]]
"""Changes facts, by id, and returns the ids of those it touched. May be called again."""


def read_facts(raw: dict[str, bytes]) -> dict[str, Fact]:
    """Facts by id, as stored."""
    return {identifier: Fact.decode(identifier, value) for identifier, value in raw.items()}


def pinned_by(agents: Mapping[str, Agent]) -> frozenset[str]:
    """The attributes that any agent pins: a user has one profile, whoever writes it."""
    policies = [agent.memory for agent in agents.values() if agent.memory is not None]
    return frozenset().union(*(policy.pinned for policy in policies))


@dataclass(frozen=True, slots=True)
class Ledger:
    """Facts as one document: few enough for that, and read only where they change. `pinned`: see `pinned_by`."""

    users: Users
    pinned: frozenset[str]

    async def change(
        self, user: UserKeys, change: Change, *, gen: str = "", settled: set[str] | None = None
    ) -> dict[str, Fact]:
        """Apply a change. Returns the facts as they are then.

        `settled` are items whose facts are in by it. One of them that was forgotten meanwhile, or settled by somebody
        else, is taken out of the set, and the change is tried again: it must leave out what that item said.
        `gen`: the generation in which the work was begun; empty: this one. Raises `UserGone`, `StoreUnavailable`.
        """
        op, done = new_id(), set() if settled is None else settled
        for _ in range(_TRIES):
            now_gen, frev, raw = await self.users.facts(user)
            if not now_gen or (gen and gen != now_gen):
                raise UserGone(f"user {user.user}: erased meanwhile")
            facts = read_facts(raw)
            touched = set(change(facts))
            groups = {(facts[one].subject, facts[one].attribute) for one in touched if one in facts} | {
                _group(raw[one]) for one in touched if one in raw
            }
            settle(facts, groups)
            puts: dict[str, bytes] = {one: b"" for one in raw if one not in facts}
            for identifier, fact in facts.items():
                if identifier not in touched and (fact.subject, fact.attribute) not in groups:
                    continue
                encoded = fact.encode()
                if raw.get(identifier) != encoded:
                    puts[identifier] = encoded
            if not puts and not done:
                return facts
            profile, left = self._profile(facts)
            wrote = await self.users.resolve(
                user, op=op, gen=now_gen, frev=frev, profile=profile, left=left, facts=puts, settled=done
            )
            if wrote is True:
                return facts
            if wrote:
                done.difference_update(wrote)
        raise StoreUnavailable(f"user {user.user}: the facts changed {_TRIES} times while they were worked on", "busy")

    def _profile(self, facts: dict[str, Fact]) -> tuple[bytes, int]:
        """The facts that a turn reads, bounded: it is read with every turn of the user; and how many more hold."""

        def is_pinned(fact: Fact) -> bool:
            return fact.pinned or fact.attribute in SAFETY or fact.attribute in self.pinned

        limit, now_ms = _PROFILE_FACTS, wall_ms()
        holding = sum(bool(fact.sightings) and fact.state_at(now_ms) == "active" for fact in facts.values())
        while True:
            chosen = shown(facts.values(), is_pinned, limit, now_ms)
            raw = orjson.dumps(chosen) if chosen else b""
            if len(raw) <= _PROFILE_BYTES or limit == 1:
                return raw, max(0, holding - len(chosen))
            limit //= 2


def _group(raw: bytes) -> tuple[str, str]:
    subject, attribute, *_ = orjson.loads(raw)
    return subject, attribute
