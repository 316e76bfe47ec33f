"""Tidying what is kept of a user: nothing that is distinct is lost, and doing it twice changes nothing more."""

from __future__ import annotations

from collections import defaultdict

from agentrt.memory import turns
from agentrt.memory.facts import Fact
from agentrt.memory.lexicon import normal
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import compact_job
from agentrt.runtime.ingestion import Ingestion
from agentrt.runtime.ledger import Ledger
from agentrt.runtime.retention import Retention, Retentions
from agentrt.runtime.services import Services
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import Raw

__all__ = ["Compaction"]


class Compaction:
    """The job `compact`, and the same on demand."""

    def __init__(self, services: Services, ingestion: Ingestion, retentions: Retentions) -> None:
        self._services = services
        self._ingestion = ingestion
        self._ledger = Ledger(services.users, ingestion.pinned)
        self._retentions = retentions

    async def compact(self, job: Job) -> None:
        """`compact/tenant/user/agent`."""
        tenant, name, agent = job.parts
        await self.tidy(UserKeys(tenant, name), agent, wall_ms())

    async def tidy(self, user: UserKeys, agent: str, now_ms: int) -> dict[str, int]:
        """Drop what is past its time, fold what was said in the same words, embed what is not; returns the counts.

        Facts are one record a key by themselves; a turn is folded into an older one of the same words and role only
        where both support the same facts, so each fact keeps a source.
        """
        services, retention = self._services, self._retentions.of(user.tenant)
        found = self._ingestion.agent(agent)
        gen = (await services.users.facts(user))[0]
        if not gen:
            return {"facts": 0, "turns": 0, "sessions": 0}
        ended: list[str] = []

        def end(facts: dict[str, Fact]) -> list[str]:
            ended[:] = _ended(facts, now_ms, retention)
            return ended

        facts = await self._ledger.change(user, end, gen=gen)
        raw = await services.users.raw(user)
        going = _past(raw, now_ms, retention) | _twins(raw, facts)
        gone = await services.users.forget(user, gen, sorted(going))
        stale = await self._stale(user, raw)
        await services.users.drop_sessions(user, stale)
        if found is not None and found[1].embedder is not None and raw.memories:
            await self._ingestion.embed(user, gen, found[1], min(raw.memories), max(raw.memories))
        await self._look_again(user, agent, now_ms, retention, raw, facts, going)
        counts = {"facts": len(ended), "turns": gone, "sessions": len(stale)}
        for kind, count in counts.items():
            services.telemetry.memory_compacted.labels(kind).inc(count)
        return counts

    async def _look_again(
        self,
        user: UserKeys,
        agent: str,
        now_ms: int,
        retention: Retention,
        raw: Raw,
        facts: dict[str, Fact],
        gone: set[str],
    ) -> None:
        """See to it that what is kept for now goes in time, also if the user never comes back."""
        memories = (turns.Memory.decode(value) for value in raw.memories.values())
        ends = [retention.turn_ends(turn) for turn in memories if turn.item not in gone]
        ends += [retention.fact_ends(fact) for fact in facts.values()]
        at_ms = retention.look_again(ends, now_ms)
        if at_ms is not None:
            await self._services.jobs.later(compact_job(user, agent), at_ms)

    async def _stale(self, user: UserKeys, raw: Raw) -> list[str]:
        """Sessions of the index that are gone, or that were never this user's."""
        stale = []
        for session in raw.sessions:
            keys = SessionKeys(user.tenant, session)
            header = await self._services.conversations.header(keys, alone=True)  # an erasure must find those, too
            if header is None or header.user != user.user:
                stale.append(session)
        return stale


def _ended(facts: dict[str, Fact], now_ms: int, retention: Retention) -> list[str]:
    """Drop the facts that were kept for as long as they may be."""
    touched = []
    for fact in list(facts.values()):
        end = retention.fact_ends(fact)
        if end is not None and now_ms > end:
            touched.append(fact.id)
            del facts[fact.id]
    return touched


def _past(raw: Raw, now_ms: int, retention: Retention) -> set[str]:
    """Items of turns that were kept for as long as they may be, and of the oldest where there are too many."""
    memories = [turns.Memory.decode(value) for value in raw.memories.values()]
    ends = {one.item: retention.turn_ends(one) for one in memories}
    going = {item for item, end in ends.items() if end is not None and now_ms > end}
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
