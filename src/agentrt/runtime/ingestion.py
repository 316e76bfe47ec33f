"""From what was said to what is remembered, behind the turns: raw turns first, then facts and embeddings.

Nothing here is urgent and everything may be done twice: an item is remembered once, its facts are settled by key, and
whatever the user's erasure overtakes is refused by the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson

from agentrt.agent import Agent, Memory
from agentrt.errors import ModelError
from agentrt.memory import extract, turns
from agentrt.memory.facts import Fact, Statement, observe
from agentrt.memory.gate import without_secrets
from agentrt.models.base import Model, ModelEvent, ModelRequest
from agentrt.records import TERMINAL, Item, Request
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import compact_job, said_at_ms, user_job
from agentrt.runtime.jobs import Again, backoff_s
from agentrt.runtime.ledger import Ledger, pinned_by
from agentrt.runtime.recollections import Kept, numpy
from agentrt.runtime.retention import Retentions
from agentrt.runtime.services import Services
from agentrt.store.conversations import StoredRun
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import Pending, Turn

__all__ = ["TRIES_MAX", "Drawn", "Ingestion", "ask", "check_policy", "helper_model", "keep", "remembered"]

log = logging.getLogger("agentrt.ingestion")

TRIES_MAX = 3
"""So often an item is tried whose answer is nonsense; then it stays among the dead letters until somebody looks."""
_BATCH = 16
_IN_PARALLEL = 4
"""So many are asked about, and then written, at once: what is in stays when the job runs out of its time."""
_ENOUGH_S = 20.0
"""A job that took so long and has drawn something goes on as a new one: a slow extractor uses up no tries."""
_CONTEXT_CHARS = 400
_COMPACT_EVERY = 256
_EMBED_BACK = 512
"""Embeddings that are missing are looked for among so many of the newest memories; compaction looks at all."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of one item: statements, or why there are none (`failed`)."""

    pending: Pending
    at: int
    statements: Sequence[Statement] = ()
    refused: Sequence[str] = ()
    failed: str = ""


def helper_model(services: Services, agent: Agent, named: str, rules: str) -> Model:
    """The model for a task of the memory: the one that the policy names, else the agent's own; rules for a script."""
    if named:
        return services.models(named)
    own = services.models(agent.models[0])
    return services.models(rules) if own.provider == "scripted" else own


def check_policy(services: Services, agent: Agent) -> None:
    """Raises `DeclarationError` where a model or a library that an agent's memory needs cannot be had."""
    memory = agent.memory
    if memory is None:
        return
    if memory.facts:
        helper_model(services, agent, memory.extractor, "scripted:extract")
    if memory.summary:
        helper_model(services, agent, memory.summarizer, "scripted:summarize")
    if memory.embedder is not None:
        numpy()


def remembered(memory: Memory, text: str) -> str:
    """A text as it may be kept: redacted as the policy says, without secrets."""
    if memory.redact is not None:
        text = memory.redact(text)
    return without_secrets(text).strip()


async def keep(services: Kept, user: UserKeys, gen: str, said: Sequence[Turn], agent: str) -> int:
    """Remember turns, and have the user tidied up now and then; returns how many were new. Raises `UserGone`."""
    added, newest = await services.users.remember(user, gen, said)
    if newest // _COMPACT_EVERY > (newest - added) // _COMPACT_EVERY:
        await services.jobs.enter(user.tenant, compact_job(user, agent))
    return added


class Ingestion:
    """The jobs `ingest` and `user`."""

    def __init__(self, services: Services, agents: Mapping[str, Agent], retentions: Retentions) -> None:
        self._services = services
        self._agents = agents
        self._retentions = retentions
        self.pinned = pinned_by(agents)
        self._ledger = Ledger(services.users, self.pinned)

    def agent(self, name: str) -> tuple[Agent, Memory] | None:
        """An agent with its policy; None where it remembers nothing. `Again` for one that this pod does not know."""
        agent = self._agents.get(name)
        if agent is None:
            raise Again(f"this pod has no agent {name[:64]!r}", 5.0)
        return None if agent.memory is None else (agent, agent.memory)

    def policy(self, name: str) -> Memory | None:
        """The policy of an agent that this pod knows."""
        agent = self._agents.get(name)
        return None if agent is None else agent.memory

    # --- raw turns ------------------------------------------------------------------------------------------------

    async def ingest(self, job: Job) -> None:
        """Remember what was said in a run: `ingest/tenant/session/run`."""
        services = self._services
        tenant, session, run = job.parts
        keys = SessionKeys(tenant, session)
        header = await services.conversations.header(keys)
        stored = await services.conversations.run(keys, run)
        if header is None or stored is None or not header.user or stored.status not in TERMINAL:
            return
        request = Request.decode(stored.request)
        found = self.agent(request.agent)
        if found is None or not (found[1].facts or found[1].recall):
            return
        user = UserKeys(tenant, header.user)
        gen = await self.life(user, session, header.created_ms)
        if gen is None:
            return
        said = await self._turns(keys, stored, request, found[1])
        if said:
            if await keep(services, user, gen, said, request.agent):
                lag_s = max(0.0, (wall_ms() - stored.created_ms) / 1000)
                services.telemetry.memory_lag_seconds.labels("turns").observe(lag_s)
            await services.jobs.enter(tenant, user_job(user, request.agent))

    async def life(self, user: UserKeys, session: str, created_ms: int) -> str | None:
        """The generation of a user, to be read before the items of a session: what an erasure overtakes from then on is
        refused. None for a session of an earlier life, which is about to go.
        """
        head = await self._services.users.greet(user, session).head()
        erased_at = await self._services.users.erased_at(user)
        return None if erased_at is not None and created_ms <= erased_at else head.gen

    async def _turns(self, keys: SessionKeys, stored: StoredRun, request: Request, memory: Memory) -> list[Turn]:
        at, now = said_at_ms(request), wall_ms()
        lines = await self._services.conversations.items(keys, stored.first, stored.first + stored.n_items)
        found = []
        for _, line in lines:
            item = Item.decode(line)
            role = str(item.data.get("role", ""))
            if item.type != "message" or role not in {"user", "assistant"}:
                continue
            text = remembered(memory, turns.text_of(item))
            if text:
                turn = turns.Memory.of(item.id, keys.id, role, at, text, now)
                found.append(Turn(item.id, turn.encode(), extract=role == "user" and memory.facts))
        return found

    # --- facts ----------------------------------------------------------------------------------------------------

    async def user(self, job: Job) -> None:
        """Draw facts from what is pending of a user, and embed what is not: `user/tenant/user/agent`."""
        tenant, name, agent_name = job.parts
        found = self.agent(agent_name)
        if found is None:
            return
        agent, memory = found
        user = UserKeys(tenant, name)
        first_s = self._retentions.of(tenant).first_s
        if first_s is not None:
            await self._services.jobs.later(compact_job(user, agent_name), wall_ms() + first_s * 1000)
        tried, started = set[str](), time.monotonic()
        while True:
            gen, pending = await self._services.users.pending(user)
            todo = [one for one in pending if one.tries < TRIES_MAX and one.item not in tried]
            batch = todo[:_BATCH]
            if not memory.facts or not batch:
                break
            tried.update(one.item for one in batch)
            texts = await self._texts(user, batch)
            for start in range(0, len(batch), _IN_PARALLEL):
                wrote = await self._draw(user, gen, agent, memory, batch[start : start + _IN_PARALLEL], texts)
                if wrote and time.monotonic() - started > _ENOUGH_S:
                    raise Again("there is more to draw from", 0.0, counts=False)
        if memory.embedder is not None:
            await self._embed_newest(user, memory)
        # Also those that earlier jobs have given up: a job that ends well takes its dead letter away.
        failed = [one for one in pending if one.tries]
        if failed and all(one.tries >= TRIES_MAX for one in failed):
            raise Again(f"no facts from {len(failed)} items: {failed[0].reason}", buries=True)
        if failed:
            raise Again(
                "items without facts so far", backoff_s(max(one.tries for one in failed if one.tries < TRIES_MAX))
            )

    async def _draw(
        self,
        user: UserKeys,
        gen: str,
        agent: Agent,
        memory: Memory,
        group: Sequence[Pending],
        texts: Mapping[int, turns.Memory],
    ) -> int:
        """Draw the facts of some items and write them at once; returns how many items are settled."""
        services = self._services
        model = helper_model(services, agent, memory.extractor, "scripted:extract")

        async def one(pending: Pending) -> Drawn | ModelError:
            turn = texts.get(pending.number)
            if turn is None:
                return Drawn(pending, 0)
            return await _draw_one(model, pending, turn, _before(texts, turn, pending.number))

        answers: list[Drawn | ModelError] = await asyncio.gather(*(one(pending) for pending in group))
        drawn = [answer for answer in answers if isinstance(answer, Drawn)]
        settled = [answer for answer in drawn if not answer.failed]
        if settled:
            await self._write(user, gen, agent, settled)
        for answer in (answer for answer in drawn if answer.failed):
            pending = replace(answer.pending, tries=answer.pending.tries + 1, reason=answer.failed)
            await services.users.retry(user, gen, pending)
            services.telemetry.memory_facts.labels("failed").inc()
        for away in (answer for answer in answers if isinstance(answer, ModelError)):
            # What is in is in, the rest later.
            raise Again(f"the extractor failed: {away}", away.retry_after_s)
        return len(settled)

    async def _texts(self, user: UserKeys, batch: Sequence[Pending]) -> dict[int, turns.Memory]:
        """The memories of a batch and the two before each."""
        numbers = sorted({number for one in batch for number in range(max(1, one.number - 2), one.number + 1)})
        found: dict[int, turns.Memory] = {}
        start = numbers[0]
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            if following != number + 1:
                raw = await self._services.users.memories(user, start, number)
                found.update((at, turns.Memory.decode(value)) for at, value in raw)
                start = following or 0
        return found

    async def _write(self, user: UserKeys, gen: str, agent: Agent, settled: Sequence[Drawn]) -> None:
        counts: defaultdict[str, int] = defaultdict(int)
        touched = set[str]()
        items = {answer.pending.item for answer in settled}

        def change(facts: dict[str, Fact]) -> set[str]:
            counts.clear()
            touched.clear()
            for answer in settled:
                for statement in answer.statements if answer.pending.item in items else ():
                    before = len(facts)
                    identifier, new = observe(facts, statement)
                    touched.add(identifier)
                    counts["written" if len(facts) > before else "merged" if new else "known"] += 1
            return touched

        facts = await self._ledger.change(user, change, gen=gen, settled=items)
        telemetry, now = self._services.telemetry, wall_ms()
        retention = self._retentions.of(user.tenant)
        at_ms = retention.look_again((retention.fact_ends(facts[one]) for one in touched if one in facts), now)
        if at_ms is not None:
            await self._services.jobs.later(compact_job(user, agent.name), at_ms)
        for answer in settled:
            for reason in answer.refused:
                counts[reason] += 1
            if answer.at:
                telemetry.memory_lag_seconds.labels("facts").observe(max(0.0, (now - answer.at) / 1000))
        for outcome, count in counts.items():
            telemetry.memory_facts.labels(outcome).inc(count)

    # --- embeddings -----------------------------------------------------------------------------------------------

    async def _embed_newest(self, user: UserKeys, memory: Memory) -> None:
        head = await self._services.users.head(user)
        await self.embed(user, head.gen, memory, max(1, head.mseq - _EMBED_BACK + 1), head.mseq)

    async def embed(self, user: UserKeys, gen: str, memory: Memory, first: int, last: int) -> int:
        """Embed the memories from `first` to `last` that are not yet; returns how many those were."""
        users, library = self._services.users, numpy()
        if memory.embedder is None or last < first:
            return 0
        known = await users.vectors(user, range(first, last + 1))
        raw = [(number, value) for number, value in await users.memories(user, first, last) if number not in known]
        for start in range(0, len(raw), 128):
            page = raw[start : start + 128]
            try:
                found = await memory.embedder.embed([turns.Memory.decode(value).text for _, value in page])
            except ModelError as error:
                raise Again(f"the embedder failed: {error}", error.retry_after_s) from error
            vectors = {}
            for (number, _), vector in zip(page, found, strict=True):
                unit = library.asarray(vector, dtype=library.float32)
                vectors[number] = (unit / (library.linalg.norm(unit) or 1.0)).astype(library.float16).tobytes()
            await users.embed(user, gen, vectors)
        return len(raw)


def _before(texts: Mapping[int, turns.Memory], turn: turns.Memory, number: int) -> list[str]:
    near = [texts.get(number - 2), texts.get(number - 1)]
    return [f"{one.role}: {one.text[:_CONTEXT_CHARS]}" for one in near if one and one.session == turn.session]


async def _draw_one(model: Model, pending: Pending, turn: turns.Memory, before: list[str]) -> Drawn | ModelError:
    """Ask the extractor about one turn. A `ModelError` that may pass is returned: others of the batch may be done.

    What else goes wrong is this item's failure alone: the user's other messages are drawn from.
    """
    try:
        answer = await ask(model, extract.request(turn.text, turn.at, before))
        statements, refused = extract.accept(extract.parse(answer), turn.text, turn.item, turn.at)
    except ModelError as error:
        if error.retryable:
            return error
        return Drawn(pending, turn.kept, failed=str(error)[:200])
    except (extract.Nonsense, orjson.JSONDecodeError) as error:
        return Drawn(pending, turn.kept, failed=str(error)[:200])
    except Exception as error:
        log.exception("no facts from item %s", pending.item)
        return Drawn(pending, turn.kept, failed=type(error).__name__)
    return Drawn(pending, turn.kept, statements, refused)


async def ask(model: Model, request: ModelRequest) -> str:
    """The answer of a model to a task of the memory. Raises `ModelError`."""
    events: list[ModelEvent] = []
    async with aclosing(cast(Any, model.stream(request))) as stream:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - an async comprehension would hide where the stream is closed
    return extract.answer_of(events)
