"""Running the tool calls of one step: under their locks, bounded, with an outcome for each; nothing is made up.

The order of writes is the turn's: it plans the calls before `settle` runs them, and records what `settle` yields.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentrt.agent import Agent, Effect, Tool, ToolContext
from agentrt.errors import OwnershipLost, StoreUnavailable, ToolError
from agentrt.runtime.clock import boottime_ms, wall_ms
from agentrt.store.journal import Intent, Journal, Outcome, Planned
from agentrt.store.ownership import Owned

__all__ = ["IN_DOUBT_TEXT", "Call", "Effects", "next_move"]

log = logging.getLogger("agentrt.effects")

IN_DOUBT_TEXT = (
    "The outcome of this call is unknown: it may or may not have taken effect. It is under examination. "
    "Do not repeat the call, and do not assume either result."
)
_CUT = "\n[cut: the output was longer than allowed]"
_MARGIN_MS = 2_000
"""A lock counts as lost this long before its deadline: what is sent after that may overlap with another pod."""


@dataclass(slots=True)
class Call:
    """One tool call of a step. `outcome` is there once it is known; `intent` is what a dead owner left open."""

    planned: Planned
    tool: Tool | None
    arguments: dict[str, Any] | None = None
    outcome: Outcome | None = None
    intent: Intent | None = None
    intended: bool = False
    """This owner's intent is in the journal."""


def next_move(call: Call, holder: str) -> Literal["settled", "run", "run_after_lock", "judge_after_lock"]:
    """What is to be done with a call, by what the journal says of it. Pure; DESIGN's crash table.

    `holder` is the token of the present owner: an intent of its own is no riddle.
    """
    if call.outcome is not None:
        return "settled"
    if call.intent is None or call.intent.holder == holder:
        return "run"
    match call.planned.effect:
        case Effect.READ_ONLY:
            return "run"
        case Effect.IDEMPOTENT:
            return "run_after_lock"
    return "judge_after_lock"


class Effects:
    """Runs calls for one owned run."""

    def __init__(self, journal: Journal, agent: Agent, owned: Owned, pod: str, deps: Any, lock_ms: int) -> None:
        self._journal = journal
        self._limits = agent.limits
        self._owned = owned
        self._pod = pod
        self._deps = deps
        self._lock_ms = lock_ms
        self._deadline_ms = 0.0
        self._running: dict[asyncio.Task[Outcome], Call] = {}

    def prepare(self, planned: Planned, tools: dict[str, Tool]) -> Call:
        """A planned call with its arguments checked. What cannot be run has its outcome at once."""
        call = Call(planned, tools.get(planned.tool))
        if planned.index >= self._limits.calls_per_step:
            call.outcome = self._failed(f"Too many calls in one step; the limit is {self._limits.calls_per_step}.")
        elif call.tool is None:
            call.outcome = self._failed(f"There is no tool named {planned.tool!r}.")
        else:
            try:
                call.arguments = call.tool.parse(planned.arguments)
            except ToolError as error:
                call.outcome = self._failed(str(error))
        return call

    def start_now(self, calls: Sequence[Call]) -> list[Call]:
        """The calls that start as soon as they are planned; the others wait for a free place, only planned."""
        ready = [call for call in calls if call.outcome is None and call.intent is None]
        return ready[: self._limits.calls_in_parallel]

    def intended(self, calls: Sequence[Call], sent_at_ms: float) -> None:
        """The plan, sent at `sent_at_ms` (boot time), made these calls `intended`."""
        for call in calls:
            call.intended = True
        self._held_since(sent_at_ms)

    def _held_since(self, sent_at_ms: float) -> None:
        drift_ms = self._lock_ms * 0.01 + 2
        self._deadline_ms = sent_at_ms + self._lock_ms - drift_ms

    async def settle(self, calls: Sequence[Call]) -> AsyncGenerator[list[Call], None]:
        """Run what is not settled; yields the calls that got their outcome, those of one tick together.

        Raises `OwnershipLost` or `StoreUnavailable`; running tools are cancelled then, and the journal says what
        is known of them.
        """
        settled = [call for call in calls if call.outcome is not None and not call.intended]
        waiting = [call for call in calls if call.outcome is None]
        if settled:
            yield settled
        try:
            while waiting or self._running:
                await self._start(waiting)
                done = await self._next_done()
                if done:
                    yield done
        finally:
            await self._stop()

    async def _start(self, waiting: list[Call]) -> None:
        """Start as many calls as there are free places; one write makes them intended."""
        free = self._limits.calls_in_parallel - len(self._running)
        starting = waiting[: max(0, free)]
        del waiting[: len(starting)]
        unmarked = [call for call in starting if not call.intended and self._plain(call)]
        if unmarked:
            await self._intend(unmarked)
        loop = asyncio.get_running_loop()
        for call in starting:
            self._running[loop.create_task(self._outcome(call))] = call

    def _plain(self, call: Call) -> bool:
        return next_move(call, self._owned.token) == "run"

    async def _intend(self, calls: Sequence[Call] = ()) -> None:
        """Take the locks of `calls` and move those of all that run: one deadline holds for all of them."""
        held = [call for call in self._running.values() if call.intended and call not in calls]
        sent_at_ms = boottime_ms()
        await self._journal.intend(self._owned, [call.planned.key for call in (*held, *calls)])
        for call in calls:
            call.intended = True
        self._held_since(sent_at_ms)

    async def _next_done(self) -> list[Call]:
        """Wait for outcomes; keep the locks of running calls alive meanwhile."""
        renew_at_ms = self._deadline_ms - self._lock_ms * 2 / 3
        timeout_s = max(0.0, renew_at_ms - boottime_ms()) / 1000
        finished, _ = await asyncio.wait(self._running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        done = []
        for task in finished:
            call = self._running.pop(task)
            call.outcome = task.result()
            done.append(call)
        if not done:
            await self._renew()
        return done

    async def _renew(self) -> None:
        try:
            await self._intend()
        except StoreUnavailable:
            if boottime_ms() >= self._deadline_ms - _MARGIN_MS:
                raise
            await asyncio.sleep(0.2)

    async def _stop(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    async def _outcome(self, call: Call) -> Outcome:
        """The outcome of one call, after whatever its journal asks for first."""
        move = next_move(call, self._owned.token)
        if move.endswith("after_lock"):
            await self._wait_for_lock(call)
            if move == "judge_after_lock":
                judged = await self._judge(call)
                if judged is not None:
                    return judged
            await self._intend([call])
        return await self._execute(call)

    async def _wait_for_lock(self, call: Call) -> None:
        """Until the deadline of a dead owner's intent has passed: it may be paused, and about to send."""
        if call.intent is None:
            return
        left_ms = call.intent.lock_until_ms - await self._journal.now_ms(self._owned)
        if left_ms > 0:
            await asyncio.sleep(left_ms / 1000)

    async def _judge(self, call: Call) -> Outcome | None:
        """What became of an at_most_once call whose owner died; None: it did not happen, run it."""
        tool = call.tool
        if tool is None or call.arguments is None or tool.conclusive is None:
            return self._in_doubt()
        try:
            async with asyncio.timeout(tool.timeout_s):
                seen = await tool.ask(self._context(call), call.arguments)
        except Exception as error:  # noqa: BLE001 - the author's code: whatever it raises, the outcome stays unknown
            log.warning("reconcile of %s failed: %s", tool.name, type(error).__name__)
            return self._in_doubt()
        if seen is not None:
            return self._recorded(seen)
        return None if tool.conclusive else self._in_doubt()

    async def _execute(self, call: Call) -> Outcome:
        tool, arguments = call.tool, call.arguments
        assert tool is not None and arguments is not None
        # The last look before the call leaves: a pod that was paused since its intent must take it anew, or stop.
        if boottime_ms() >= self._deadline_ms - _MARGIN_MS:
            await self._intend([call])
        try:
            async with asyncio.timeout(tool.timeout_s):
                return self._recorded(await tool.call(self._context(call), arguments))
        except ToolError as error:
            return self._failed(str(error))
        except TimeoutError:
            if call.planned.effect == Effect.AT_MOST_ONCE:
                return await self._judge(call) or self._in_doubt()
            return self._failed(f"The tool did not answer within {tool.timeout_s:g} s.")
        except (OwnershipLost, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - the author's code: its type is told, its locals and texts are not
            log.warning("tool %s raised %s", tool.name, type(error).__name__)
            return self._failed(f"The tool failed with {type(error).__name__}.")

    def _context(self, call: Call) -> ToolContext:
        owned = self._owned
        return ToolContext(
            tenant=owned.session.tenant,
            session=owned.session.id,
            run=owned.run.id,
            tool=call.planned.tool,
            idempotency_key=call.planned.key,
            fencing_token=owned.fence,
            pod=self._pod,
            attempt=owned.attempt,
            user=owned.user or None,
            deps=self._deps,
        )

    def _recorded(self, output: str) -> Outcome:
        limit = self._limits.tool_output_bytes
        if len(output.encode()) > limit:
            output = output.encode()[:limit].decode(errors="ignore") + _CUT
        return self._make("recorded", output, None)

    def _failed(self, error: str) -> Outcome:
        return self._make("failed", None, error[: self._limits.tool_output_bytes])

    def _in_doubt(self) -> Outcome:
        return self._make("in_doubt", None, IN_DOUBT_TEXT)

    def _make(self, state: str, output: str | None, error: str | None) -> Outcome:
        return Outcome(state, output, error, wall_ms(), self._pod, self._owned.attempt)
