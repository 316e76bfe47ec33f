"""The job that summarises a session behind its window. A failed one leaves the window as it is."""

from __future__ import annotations

from agentrt.agent import Agent, Memory
from agentrt.errors import ModelError
from agentrt.memory import summary, turns
from agentrt.memory.summary import Summary
from agentrt.records import Item
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.ingestion import Ingestion, ask, helper_model, remembered
from agentrt.runtime.jobs import Again
from agentrt.runtime.services import Services
from agentrt.store.conversations import Header
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import StoredSummary

__all__ = ["Summaries"]

_ROUNDS = 8
"""Segments and folds of one job; whatever is left is asked for again by the next turn."""


class Summaries:
    """The job `summary`."""

    def __init__(self, services: Services, ingestion: Ingestion) -> None:
        self._services = services
        self._ingestion = ingestion

    async def summarize(self, job: Job) -> None:
        """Bring a session's summary up to date: `summary/tenant/session/agent`."""
        tenant, session, agent_name = job.parts
        found = self._ingestion.agent(agent_name)
        keys = SessionKeys(tenant, session)
        if found is None or not found[1].summary:
            return
        for _ in range(_ROUNDS):
            header = await self._services.conversations.header(keys)
            if header is None:
                return
            stored = await self._services.users.summary(keys)
            longer = await self._longer(keys, stored, header, *found)
            if longer is None:
                return
            # Somebody else's is as good: look at it, and go on from there.
            await self._services.users.summarize(keys, header.user, stored, longer.encode())

    async def _longer(
        self, keys: SessionKeys, stored: StoredSummary, header: Header, agent: Agent, memory: Memory
    ) -> Summary | None:
        """With one segment more, or with segments folded; None when there is nothing to do."""
        known = Summary.decode(stored.raw)
        places = summary.foldable(known.segments)
        if places is not None:
            lines = [one.text for one in known.segments[places.start : places.stop]]
            return known.folded(places, await self._told(agent, memory, lines))
        part = summary.due(header.seq, known.upto)
        if part is None:
            new = await self._services.conversations.items(keys, known.upto, header.seq)
            part = summary.overflow(new, self._services.scales.budget(agent))
        if part is None:
            return None
        user, gen = None, None
        if header.user and memory.recall:
            user = UserKeys(keys.tenant, header.user)
            gen = await self._ingestion.life(user, keys.id, header.created_ms)
        items = [Item.decode(line) for _, line in await self._services.conversations.items(keys, *part)]
        lines = [line for item in items if (line := _line(item, memory))]
        text = await self._told(agent, memory, lines) if lines else "(nothing was said)"
        if lines and user is not None and gen is not None:
            # For recall in other conversations. Before the summary is longer: a pod that dies between does both again.
            recap = turns.recap(keys.id, stored.gone, part, text, wall_ms())
            await self._services.users.recap(user, gen, recap.item, recap.encode(), [item.id for item in items])
        return known.followed_by(text, part[1])

    async def _told(self, agent: Agent, memory: Memory, lines: list[str]) -> str:
        model = helper_model(self._services, agent, memory.summarizer, "scripted:summarize")
        try:
            text = await ask(model, summary.request(lines, memory.summary_prompt))
        except ModelError as error:
            raise Again(f"the summariser failed: {error}", error.retry_after_s) from error
        if not text.strip():
            raise Again("the summariser answered nothing")
        return text.strip()


def _line(item: Item, memory: Memory) -> str:
    if item.type == "message":
        text = remembered(memory, turns.text_of(item))
        return f"{item.data.get('role')}: {text}" if text else ""
    if item.type == "compaction":
        notes = remembered(memory, str(item.private.get("data", {}).get("summary", "")))
        return f"before this: {notes}" if notes else ""
    if item.type == "function_call_output":
        return f"the tool: {remembered(memory, str(item.data.get('output') or ''))[:400]}"
    if item.type in {"mcp_call", "function_call"}:
        return f"tool {item.data.get('name')}: {remembered(memory, str(item.data.get('output') or ''))[:400]}"
    return ""
