"""Tidying what is kept of a user: nothing that is distinct is lost, and doing it twice changes nothing more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import NamedTuple

from agentrt.memory.facts import Fact
from agentrt.memory.lexicon import normal
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import compact_job
from agentrt.runtime.ingestion import Ingestion
from agentrt.runtime.ledger import Ledger
from agentrt.runtime.recollections import AT_ONCE, PAGE, each_turn
from agentrt.runtime.retention import Retention, Retentions
from agentrt.runtime.services import Services
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys

__all__ = ["Compaction"]


class _Kept(NamedTuple):
    """What tidying has to know of a turn. `words`: a digest of session, role and words; `ends`: ms, None for never."""

    item: str
    words: bytes
    ends: int | None


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
        where both support the same facts, so each fact keeps a source. Raises `Again` where all is done but embeddings.
        """
        services, retention = self._services, self._retentions.of(user.tenant)
        head = await services.users.head(user)
        if not head.gen:
            return {"facts": 0, "turns": 0, "sessions": 0}
        ended: list[str] = []

        def end(facts: dict[str, Fact]) -> list[str]:
            ended[:] = _ended(facts, now_ms, retention)
            return ended

        facts = await self._ledger.change(user, end, gen=head.gen)
        kept = await self._kept(user, retention)
        pending = {one.item for one in (await services.users.pending(user))[1]}
        past = _past(kept, now_ms, retention, pending)
        going = past | await _twins(kept, facts, past | pending)
        gone = await services.users.forget(user, head.gen, sorted(going))
        stale = await self._stale(user)
        await services.users.drop_sessions(user, stale)
        ends = [one.ends for one in kept.values() if one.item not in going]
        ends += [retention.fact_ends(fact) for fact in facts.values()]
        at_ms = retention.look_again(ends, now_ms)
        if at_ms is not None:  # it goes in time, also if the user never comes back
            await services.jobs.later(compact_job(user, agent), at_ms)
        counts = {"facts": len(ended), "turns": gone, "sessions": len(stale)}
        for kind, count in counts.items():
            services.telemetry.memory_compacted.labels(kind).inc(count)
        await self._embed(user, agent, head.gen, kept)  # the last of it: an embedder that is away holds up nothing else
        return counts

    async def _kept(self, user: UserKeys, retention: Retention) -> dict[int, _Kept]:
        """The turns by number, each decoded once; what others have to do on this pod is not held up."""
        kept = {}
        async for number, turn in each_turn(self._services.users, user):
            words = "\0".join((turn.session, turn.role, normal(turn.text))).encode(errors="surrogatepass")
            kept[number] = _Kept(turn.item, blake2b(words, digest_size=16).digest(), retention.turn_ends(turn))
        return kept

    async def _embed(self, user: UserKeys, agent: str, gen: str, numbers: Collection[int]) -> None:
        """Embed what is not, where this pod knows the agent; nothing else of tidying needs it."""
        memory = self._ingestion.policy(agent)
        if memory is None or memory.embedder is None or not numbers:
            return
        for first in range(min(numbers), max(numbers) + 1, PAGE):
            await self._ingestion.embed(user, gen, memory, first, min(first + PAGE - 1, max(numbers)))

    async def _stale(self, user: UserKeys) -> list[str]:
        """Sessions of the index that are gone, or that were never this user's."""
        stale = []
        for session in await self._services.users.sessions(user):
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


def _past(kept: dict[int, _Kept], now_ms: int, retention: Retention, pending: set[str]) -> set[str]:
    """Items of turns that were kept for as long as they may be, and of the oldest where there are too many: of these
    only such as facts were drawn from.
    """
    turns: Sequence[_Kept] = list(kept.values())
    going = {one.item for one in turns if one.ends is not None and now_ms > one.ends}
    if retention.turns_max and len(turns) > retention.turns_max:
        going |= {one.item for one in turns[: len(turns) - retention.turns_max]} - pending
    return going


async def _twins(kept: dict[int, _Kept], facts: dict[str, Fact], but: set[str]) -> set[str]:
    """Items whose turn says, in the same words, what an older one says, and supports no other facts than that."""
    supports: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts.values():
        for item in fact.sightings:
            supports[item].add(fact.id)
    seen = set[tuple[bytes, frozenset[str]]]()
    going = set()
    for count, turn in enumerate(kept.values()):
        if count % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
        if turn.item in but:
            continue
        key = (turn.words, frozenset(supports.get(turn.item, ())))
        if key in seen:
            going.add(turn.item)
        seen.add(key)
    return going
