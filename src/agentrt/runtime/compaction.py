"""Tidying what is kept of a user: nothing that is distinct is lost, and doing it twice changes nothing more."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from agentrt.memory import turns
from agentrt.memory.facts import Fact
from agentrt.memory.lexicon import normal
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.ingestion import Ingestion
from agentrt.runtime.ledger import Ledger
from agentrt.runtime.services import Services
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import Raw

__all__ = ["Compaction", "Retention"]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept, in seconds, and how much; 0: no bound. Of ended facts: behind their end."""

    turns_s: int = 0
    ended_facts_s: int = 30 * 86_400
    turns_max: int = 50_000


class Compaction:
    """The job `compact`, and the same on demand."""

    def __init__(self, services: Services, ingestion: Ingestion, retention: Retention) -> None:
        self._services = services
        self._ingestion = ingestion
        self._ledger = Ledger(services.users)
        self._retention = retention

    async def compact(self, job: Job) -> None:
        """`compact/tenant/user/agent`."""
        tenant, name, agent = job.parts
        await self.tidy(UserKeys(tenant, name), agent, wall_ms())

    async def tidy(self, user: UserKeys, agent: str, now_ms: int) -> dict[str, int]:
        """Drop what is past its time, fold what was said in the same words, embed what is not; returns the counts.

        Facts are one record a key by themselves; a turn is folded into an older one of the same words and role only
        where both support the same facts, so each fact keeps a source.
        """
        services, retention = self._services, self._retention
        found = self._ingestion.agent(agent)
        gen = (await services.users.facts(user))[0]
        if not gen:
            return {"facts": 0, "turns": 0, "sessions": 0}
        facts = await self._ledger.change(user, lambda facts: _ended(facts, now_ms, retention.ended_facts_s), gen=gen)
        raw = await services.users.raw(user)
        going = _past(raw, now_ms, retention) | _twins(raw, facts)
        gone = await services.users.forget(user, gen, sorted(going))
        stale = await self._stale(user, raw)
        await services.users.drop_sessions(user, stale)
        if found is not None and found[1].embedder is not None and raw.memories:
            await self._ingestion.embed(user, gen, found[1], min(raw.memories), max(raw.memories))
        return {"facts": len(raw.facts) - len(facts), "turns": gone, "sessions": len(stale)}

    async def _stale(self, user: UserKeys, raw: Raw) -> list[str]:
        """Sessions of the index that are gone, or that were never this user's."""
        stale = []
        for session in raw.sessions:
            header = await self._services.conversations.header(SessionKeys(user.tenant, session))
            if header is None or header.user != user.user:
                stale.append(session)
        return stale


def _ended(facts: dict[str, Fact], now_ms: int, after_s: int) -> list[str]:
    """Drop the facts that ended by themselves long enough ago."""
    touched = []
    for fact in list(facts.values()):
        until = fact.until if fact.sightings else None
        if until is not None and now_ms > until + after_s * 1000:
            touched.append(fact.id)
            del facts[fact.id]
    return touched


def _past(raw: Raw, now_ms: int, retention: Retention) -> set[str]:
    """Items of turns that were kept for as long as they may be, and of the oldest where there are too many."""
    memories = [turns.Memory.decode(value) for value in raw.memories.values()]
    going = {one.item for one in memories if retention.turns_s and now_ms - one.kept > retention.turns_s * 1000}
    if retention.turns_max and len(memories) > retention.turns_max:
        going |= {one.item for one in memories[: len(memories) - retention.turns_max]}
    pending = {one.item for one in raw.pending}
    return going - pending


def _twins(raw: Raw, facts: dict[str, Fact]) -> set[str]:
    """Items whose turn says, in the same words, what an older one says, and supports no other facts than that."""
    supports: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts.values():
        for item in fact.sightings:
            supports[item].add(fact.id)
    pending = {one.item for one in raw.pending}
    first: dict[tuple[str, str, str, frozenset[str]], str] = {}
    going = set()
    for value in raw.memories.values():
        turn = turns.Memory.decode(value)
        if turn.item in pending:
            continue
        key = (turn.session, turn.role, normal(turn.text), frozenset(supports[turn.item]))
        if key in first:
            going.add(turn.item)
        first.setdefault(key, turn.item)
    return going
