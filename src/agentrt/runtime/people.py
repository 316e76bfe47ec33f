"""What users, and operators for them, may do with what is remembered: see it, and why; correct, forget, export it.

Erasure has a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from agentrt.agent import Agent, Memory
from agentrt.memory import facts as ledgers
from agentrt.memory import turns
from agentrt.memory.block import Block, Shares
from agentrt.memory.dates import iso
from agentrt.memory.facts import Fact, Sighting, Statement, observe
from agentrt.memory.gate import refusal
from agentrt.memory.index import Index
from agentrt.memory.summary import Summary
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import compact_job, user_job
from agentrt.runtime.forgetting import Forgetting, NoSuchMemory
from agentrt.runtime.ingestion import TRIES_MAX, keep, remembered
from agentrt.runtime.ledger import Ledger, pinned_by, read_facts
from agentrt.runtime.recollections import Kept, each_turn, shares_of
from agentrt.runtime.retention import Retentions
from agentrt.store.keys import SessionKeys, UserKeys, new_id
from agentrt.store.users import Turn

__all__ = ["NoSuchMemory", "People", "Refused", "Said"]


class Refused(Exception):
    """The write gate does not let this in; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """A turn that somebody brings along: an old conversation, another channel."""

    item: str
    role: str
    text: str
    at: int
    session: str = ""
    speaker: str = ""


class People:
    """Looking at and changing what is remembered of a user."""

    def __init__(self, services: Kept, agents: Mapping[str, Agent], retentions: Retentions | None = None) -> None:
        self._services = services
        self._agents = agents
        self._retentions = retentions or Retentions()
        self._ledger = Ledger(services.users, pinned_by(agents))
        self.forgetting = Forgetting(services, self._ledger)

    def policy(self, agent: str = "") -> tuple[str, Memory]:
        """(name, policy) of an agent; of the first that remembers anything where none is named.

        Raises `NoSuchMemory` for one that there is not, or that remembers nothing.
        """
        for name, declared in self._agents.items():
            if agent in ("", name) and declared.memory is not None:
                return name, declared.memory
        raise NoSuchMemory(f"there is no agent {agent!r} with a memory")

    # --- looking --------------------------------------------------------------------------------------------------

    async def overview(self, user: UserKeys) -> dict[str, Any]:
        """Counts, and what is still to be drawn: `pending` (not looked at yet), `retrying`, `dead`."""
        users = self._services.users
        _, _, facts = await users.facts(user)
        head = await users.head(user)
        _, pending = await users.pending(user)
        return {
            "user": user.user,
            "tenant": user.tenant,
            "generation": head.gen,
            "facts": len(facts),
            "turns": head.mseq,
            "sessions": len(await users.sessions(user)),
            "ingest": {
                "pending": sum(one.tries == 0 for one in pending),
                "retrying": sum(0 < one.tries < TRIES_MAX for one in pending),
                "dead": sum(one.tries >= TRIES_MAX for one in pending),
            },
        }

    async def facts(self, user: UserKeys, now_ms: int) -> list[dict[str, Any]]:
        """All facts with their states at a time."""
        _, _, raw = await self._services.users.facts(user)
        return [described(fact, now_ms) for fact in read_facts(raw).values()]

    async def why(self, user: UserKeys, identifier: str, now_ms: int) -> dict[str, Any]:
        """One fact, with what it rests on. Raises `NoSuchMemory`."""
        _, _, raw = await self._services.users.facts(user)
        if identifier not in raw:
            raise NoSuchMemory("no fact has this id")
        fact = Fact.decode(identifier, raw[identifier])
        sources = [
            {
                "item": one.item,
                "at": iso(one.at),
                "rank": {1: "inferred", 2: "said", 3: "set"}[one.rank],
                "confidence": one.confidence,
                "quote": one.quote,
                "text": await self._text(user, one.item),
            }
            for one in sorted(fact.sightings.values(), key=lambda one: (one.at, one.item))
        ]
        return {**described(fact, now_ms), "because": sources}

    async def _text(self, user: UserKeys, item: str) -> str | None:
        number = await self._services.users.number(user, item)
        raw = await self._services.users.memories(user, number, number) if number is not None else []
        return turns.Memory.decode(raw[0][1]).text if raw else None

    async def search(
        self, user: UserKeys, question: str, k: int, now_ms: int, *, facts_only: bool = False
    ) -> dict[str, Any]:
        """Facts that hold at a time, turns, and summaries of conversations, for a question; the best first."""
        services = self._services
        _, _, raw = await services.users.facts(user)
        active = [fact for fact in read_facts(raw).values() if fact.state_at(now_ms) == "active"]
        index = Index("", 0)
        for number, fact in enumerate(active, 1):
            text = f"{fact.subject} {fact.attribute.replace('_', ' ')} {fact.value}"
            index.add(number, turns.Memory.of(fact.id, fact.id, "fact", fact.seen, text, 0))
        found = [{**described(active[hit.number - 1], now_ms), "score": hit.score} for hit in index.search(question, k)]
        hits = []
        if not facts_only:
            embedder = self.policy()[1].embedder
            hits = await services.recollections.search(await services.users.head(user), question, 2 * k, embedder)
        said = [{**_turn(hit.memory), "score": hit.score} for hit in hits if hit.memory.role != turns.SUMMARY]
        told = [{**_turn(hit.memory), "score": hit.score} for hit in hits if hit.memory.role == turns.SUMMARY]
        return {"facts": found, "turns": said[:k], "summaries": told[:k]}

    async def context(
        self, user: UserKeys, question: str, now_ms: int, *, agent: str = "", budget: int | None = None
    ) -> Block:
        """What a turn of a new conversation with this message would be given, and why."""
        _, memory = self.policy(agent)
        shares = shares_of(memory, 1_000_000)
        if budget is not None:
            total = sum(shares) or 1
            shares = Shares(*(share * budget // total for share in shares))
        head = await self._services.users.head(user)
        return await self._services.recollections.compose(head, memory, shares, question, now_ms)

    async def turns(self, user: UserKeys, after: int, limit: int) -> list[dict[str, Any]]:
        """Raw turns in the order in which they were remembered, from number `after` + 1 on."""
        head = await self._services.users.head(user)
        found: list[dict[str, Any]] = []
        start = after + 1
        while len(found) < limit and start <= head.mseq:
            end = min(start + limit - 1, head.mseq)
            page = await self._services.users.memories(user, start, end)
            found += [{"number": number, **_turn(turns.Memory.decode(raw))} for number, raw in page]
            start = end + 1
        return found[:limit]

    async def export(self, user: UserKeys) -> dict[str, Any]:
        """Everything that is kept of a user, as JSON: facts with sources, turns, the items of their conversations, and
        those of single runs (chats, compactions, responses that are not stored) for as long as they are there.
        """
        services, now = self._services, wall_ms()
        facts = read_facts((await services.users.facts(user))[2]).values()
        kept = [(one.role, _turn(one)) async for _, one in each_turn(services.users, user)]
        sessions = [await self._exported(user, session) for session in sorted(await services.users.sessions(user))]
        return {
            "user": user.user,
            "tenant": user.tenant,
            "exported": iso(now),
            "facts": [
                {**described(fact, now), "quotes": [one.quote for one in fact.sightings.values()]} for fact in facts
            ],
            "turns": [one for role, one in kept if role != turns.SUMMARY],
            "summaries": [one for role, one in kept if role == turns.SUMMARY],
            "conversations": [one for one in sessions if one and "conversation" in one],
            "single_runs": [one for one in sessions if one and "run" in one],
        }

    async def _exported(self, user: UserKeys, session: str) -> dict[str, Any] | None:
        """A conversation, or a single run; None where it is gone, or another user's."""
        services, keys = self._services, SessionKeys(user.tenant, session)
        header = await services.conversations.header(keys, alone=True)
        if header is None or header.user != user.user:
            return None
        lines = await services.conversations.items(keys, 0, header.seq)
        kept = {
            "created": iso(header.created_ms),
            "items": [orjson.loads(line.partition(b"\n")[0]) for _, line in lines],
        }
        if header.alone:
            return {"run": session, **kept}
        summary = Summary.decode((await services.users.summary(keys)).raw)
        told = {"metadata": header.metadata, "summary": [one.text for one in summary.segments]}
        return {"conversation": f"conv_{session}", **told, **kept}

    # --- changing -------------------------------------------------------------------------------------------------

    async def remember(self, user: UserKeys, said: Sequence[Said], agent: str = "") -> int:
        """Take turns in from elsewhere; facts are drawn from what the user said. Returns how many were new."""
        name, memory = self.policy(agent)
        now = wall_ms()
        kept = []
        for one in said:
            text = remembered(memory, one.text)
            if not text:
                continue
            turn = turns.Memory.of(one.item, one.session, one.role, one.at, text, now, one.speaker)
            kept.append(Turn(one.item, turn.encode(), extract=one.role == "user" and memory.facts))
        added = await keep(self._services, user, "", kept, name)
        await self._services.jobs.enter(user.tenant, user_job(user, name))
        return added

    async def set(  # noqa: PLR0913 - the parts of a fact
        self,
        user: UserKeys,
        *,
        attribute: str,
        value: str,
        subject: str = "user",
        negative: bool = False,
        one: bool = False,
        until: int | None = None,
        at: int | None = None,
        replaces: str = "",
        by: str = "",
        pinned: bool | None = None,
    ) -> str:
        """Set a fact on purpose: a preference or a correction. It outranks what was drawn; returns its id.

        `replaces`: a fact that it takes the place of. `pinned`: in the context of every turn; None: as it was. Raises
        `Refused`, `NoSuchMemory`.
        """
        reason = refusal(subject, attribute, value, negative=negative)
        if reason is not None:
            raise Refused(reason)
        await self._services.users.remember(user, "", [])  # there is a user from now on
        at = wall_ms() if at is None else at
        seen = Sighting(f"set_{new_id()}", at, ledgers.SET, 1.0, one, until, f"set by {by}" if by else "")
        identifiers: list[str] = []

        def change(facts: dict[str, Fact]) -> set[str]:
            touched = set()
            if replaces:
                if replaces not in facts:
                    raise NoSuchMemory("no fact has this id")
                ledgers.forget(facts[replaces])
                touched.add(replaces)
            identifiers[:] = [observe(facts, Statement(subject, attribute, value, negative, seen))[0]]
            if pinned is not None:
                facts[identifiers[0]].pinned = pinned
            return {*touched, *identifiers}

        facts = await self._ledger.change(user, change)
        retention = self._retentions.of(user.tenant)
        at_ms = retention.look_again([retention.fact_ends(facts[identifiers[0]])], wall_ms())
        if at_ms is not None:  # this user may have no turn ever: nobody else would look
            agent = next((name for name, declared in self._agents.items() if declared.memory is not None), "")
            await self._services.jobs.later(compact_job(user, agent), at_ms)
        return identifiers[0]

    async def revive(self, job: str) -> None:
        """Have a job that was given up done again, with all its tries and those of the items behind it."""
        kind, *parts = job.split("/")
        if kind == "user":
            user = UserKeys(parts[0], parts[1])
            gen, pending = await self._services.users.pending(user)
            for one in pending:
                await self._services.users.retry(user, gen, replace(one, tries=0))
        await self._services.jobs.revive(job)


def described(fact: Fact, now_ms: int) -> dict[str, Any]:
    """A fact as the API shows it."""
    best = fact.best if fact.sightings else None
    return {
        "id": fact.id,
        "subject": fact.subject,
        "attribute": fact.attribute,
        "value": fact.value,
        "polarity": "-" if fact.negative else "+",
        "state": fact.state_at(now_ms),
        "card": ("one" if best.one else "many") if best else None,
        "confidence": best.confidence if best else None,
        "rank": {1: "inferred", 2: "said", 3: "set"}[best.rank] if best else None,
        "sources": sorted(fact.sightings),
        "support": len(fact.sightings),
        "seen": iso(fact.seen) if best else None,
        "valid_until": iso(best.until) if best and best.until is not None else None,
        "pinned": fact.pinned or fact.attribute in ledgers.SAFETY,
        "pii": fact.pii,
    }


def _turn(turn: turns.Memory) -> dict[str, Any]:
    return {
        "item": turn.item,
        "conversation": turn.session,
        "role": turn.role,
        "speaker": turn.speaker,
        "at": iso(turn.at),
        "text": turn.text,
    }
