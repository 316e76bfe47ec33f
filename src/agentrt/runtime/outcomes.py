"""Outcomes of calls as the journal keeps them, and finding out what became of a call that nobody can tell of."""

from __future__ import annotations

import asyncio
import logging

from agentrt.agent import Effect, Limits, ToolContext
from agentrt.runtime.calls import IN_DOUBT_TEXT, Call
from agentrt.runtime.clock import boottime_ms, wall_ms
from agentrt.runtime.intents import Intents
from agentrt.store.journal import Outcome

__all__ = ["Examination", "Outcomes"]

log = logging.getLogger("agentrt.effects")

_CUT = "\n[cut: the output was longer than allowed]"


class Outcomes:
    """Makes outcomes for one attempt at a run. Texts are cut, and whatever is no text is replaced."""

    def __init__(self, limits: Limits, pod: str, attempt: int) -> None:
        self._bytes_max = limits.tool_output_bytes
        self._pod = pod
        self._attempt = attempt

    def recorded(self, output: str) -> Outcome:
        """It happened."""
        raw = output.encode(errors="replace")  # a lone surrogate is no text; the effect has happened all the same
        if len(raw) > self._bytes_max:
            return self._make("recorded", raw[: self._bytes_max].decode(errors="ignore") + _CUT, None)
        return self._make("recorded", raw.decode(), None)

    def failed(self, error: str) -> Outcome:
        """It did not succeed, and `error` is what the model reads."""
        return self._make("failed", None, error[: self._bytes_max].encode(errors="replace").decode())

    def in_doubt(self, what: str = "") -> Outcome:
        """Nobody knows."""
        return self._make("in_doubt", None, f"{what} {IN_DOUBT_TEXT}".strip())

    def _make(self, state: str, output: str | None, error: str | None) -> Outcome:
        return Outcome(state, output, error, wall_ms(), self._pod, self._attempt)


class Examination:
    """Finds out what became of a call: by its hook, by its class, or not at all."""

    def __init__(self, outcomes: Outcomes, intents: Intents) -> None:
        self._outcomes = outcomes
        self._intents = intents

    async def after_a_death(self, call: Call, ctx: ToolContext) -> Outcome | None:
        """What became of a call whose owner died; None: it did not happen, run it."""
        seen = await self._ask(call, ctx)
        if seen is None and not (call.tool and call.tool.conclusive):
            return self._outcomes.in_doubt()
        return seen

    async def of_a_bug(self, call: Call, ctx: ToolContext, what: str) -> Outcome:
        """The author's code failed: the hook may know better, else it failed, before or after its effect."""
        if call.planned.effect == Effect.READ_ONLY:
            return self._outcomes.failed(what)
        if call.tool is not None and call.tool.conclusive is not None:
            seen = await self._ask(call, ctx)
            if seen is not None and seen.state == "recorded":
                return seen
        return self._outcomes.failed(f"{what} Whether it took effect before that is not known.")

    async def on_its_way(self, call: Call, ctx: ToolContext, what: str) -> Outcome:
        """A call that ended without an answer, and may arrive still."""
        if call.planned.effect == Effect.READ_ONLY:
            return self._outcomes.failed(what)
        seen = await self._ask(call, ctx)
        if seen is None and call.tool is not None and call.tool.conclusive:
            # The author's word holds for what is not there when the lock has run out, so it must.
            deadline_ms = self._intents.deadline_ms
            self._intents.drop(call)
            await asyncio.sleep(max(0.0, deadline_ms - boottime_ms()) / 1000)
            seen = await self._ask(call, ctx)
            if seen is None:
                return self._outcomes.failed(what)
        if seen is None or seen.state == "in_doubt":
            return self._outcomes.in_doubt(what)
        return seen

    async def _ask(self, call: Call, ctx: ToolContext) -> Outcome | None:
        """What the tool's hook sees of the call outside: recorded, in doubt where it cannot say, None for nothing."""
        tool = call.tool
        if tool is None or call.arguments is None or tool.conclusive is None:
            return self._outcomes.in_doubt()
        try:
            async with asyncio.timeout(tool.timeout_s):
                seen = await tool.ask(ctx, call.arguments)
        except Exception as error:  # noqa: BLE001 - the author's code: whatever it raises, the outcome stays unknown
            log.warning("reconcile of %s failed: %s", tool.name, type(error).__name__)
            return self._outcomes.in_doubt()
        return None if seen is None else self._outcomes.recorded(seen)
