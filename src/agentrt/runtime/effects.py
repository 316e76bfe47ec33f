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
from agentrt.errors import AgentrtError, StoreUnavailable, ToolError
from agentrt.runtime.clock import boottime_ms, wall_ms
from agentrt.runtime.insist import insist
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
"""A lock counts as lost this long before its deadline (a tenth of it for short ones): what is sent after that may
overlap with another pod."""
_PAUSE_S = 0.2
_STOP_S = 5.0
"""How long a tool may take to give up when it is cancelled; then it is left behind."""


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
        self._intending = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._running: dict[asyncio.Task[Outcome], Call] = {}

    def prepare(self, planned: Planned, tools: dict[str, Tool], intent: Intent | None = None) -> Call:
        """A planned call with its arguments checked. What cannot be run has its outcome at once."""
        call = Call(planned, tools.get(planned.tool), intent=intent)
        problem = None
        if planned.index >= self._limits.calls_per_step:
            problem = f"Too many calls in one step; the limit is {self._limits.calls_per_step}."
        elif call.tool is None:
            problem = f"There is no tool named {planned.tool!r}."
        else:
            try:
                call.arguments = call.tool.parse(planned.arguments)
            except ToolError as error:
                problem = str(error)
        if problem is not None:
            # A pod that knew the tool may have made the call: then it is not for this one to say that it failed.
            happened = intent is not None and planned.effect != Effect.READ_ONLY
            call.outcome = self._in_doubt() if happened else self._failed(problem)
        return call

    def start_now(self, calls: Sequence[Call]) -> list[Call]:
        """The calls that start as soon as they are planned; the others wait for a free place, only planned."""
        ready = [call for call in calls if call.outcome is None and call.intent is None]
        return ready[: self._limits.calls_in_parallel]

    def intended(self, calls: Sequence[Call], sent_at_ms: float) -> None:
        """The plan, sent at `sent_at_ms` (boot time), made these calls `intended`."""
        for call in calls:
            call.intended = True
        if calls:
            self._held_since(sent_at_ms)

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
            await self._end()

    def stop(self, error: BaseException) -> None:
        """End what runs, whatever `settle` is doing: its locks are lost, or the session is."""
        if self._failure is None:
            self._failure = error
        for task in self._running:
            task.cancel()

    # --- the locks ------------------------------------------------------------------------------------------------

    def _held_since(self, sent_at_ms: float) -> None:
        drift_ms = self._lock_ms * 0.01 + 2
        self._deadline_ms = sent_at_ms + self._lock_ms - drift_ms
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def _left_s(self) -> float:
        """How long what runs may go on running."""
        return (self._deadline_ms - min(_MARGIN_MS, self._lock_ms / 10) - boottime_ms()) / 1000

    async def _intend(self, calls: Sequence[Call] = ()) -> None:
        """Take the locks of `calls` and move those of all that run: one deadline holds for all of them."""
        async with self._intending:
            held = [call for call in self._running.values() if call.intended and call not in calls]
            sent_at_ms = boottime_ms()
            await self._journal.intend(self._owned, [call.planned.key for call in (*held, *calls)])
            for call in calls:
                call.intended = True
            self._held_since(sent_at_ms)

    async def _keep(self) -> None:
        """Move the deadline every third of it, also while the turn waits for something else."""
        try:
            while True:
                renew_at_ms = self._deadline_ms - self._lock_ms * 2 / 3
                await asyncio.sleep(max(0.0, renew_at_ms - boottime_ms()) / 1000)
                await self._renew()
        except AgentrtError as error:
            self.stop(error)

    async def _renew(self) -> None:
        """Raises `StoreUnavailable` when the deadline could not be moved in time, `OwnershipLost`."""
        while (left_s := self._left_s()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await self._intend()
            except TimeoutError:
                break
            except StoreUnavailable:
                await asyncio.sleep(min(_PAUSE_S, max(0.0, self._left_s())))
        raise StoreUnavailable("the locks of running calls could not be renewed in time")

    # --- running --------------------------------------------------------------------------------------------------

    async def _start(self, waiting: list[Call]) -> None:
        """Start as many calls as there are free places; one write makes them intended."""
        free = self._limits.calls_in_parallel - len(self._running)
        starting = waiting[: max(0, free)]
        unmarked = [call for call in starting if not call.intended and self._plain(call)]
        if unmarked:
            await insist(lambda: self._intend(unmarked))
        if self._failure is not None:
            raise self._failure
        del waiting[: len(starting)]
        loop = asyncio.get_running_loop()
        for call in starting:
            self._running[loop.create_task(self._outcome(call))] = call

    def _plain(self, call: Call) -> bool:
        return next_move(call, self._owned.token) == "run"

    async def _next_done(self) -> list[Call]:
        """Wait for outcomes. What failed is raised only when the outcomes that came with it are out of the house."""
        finished, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        done = []
        for task in finished:
            call = self._running.pop(task)
            if task.cancelled():
                continue
            if (error := task.exception()) is not None:
                self.stop(error)
            else:
                call.outcome = task.result()
                done.append(call)
        if self._failure is not None and not done:
            raise self._failure
        return done

    async def _end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)
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
            await insist(lambda: self._intend([call]))
        return await self._execute(call)

    async def _wait_for_lock(self, call: Call) -> None:
        """Until the deadline of a dead owner's intent has passed: it may be paused, and about to send."""
        if call.intent is None:
            return
        left_ms = call.intent.lock_until_ms - await insist(lambda: self._journal.now_ms(self._owned))
        if left_ms > 0:
            await asyncio.sleep(left_ms / 1000)

    async def _judge(self, call: Call) -> Outcome | None:
        """What became of an at_most_once call whose owner died; None: it did not happen, run it."""
        seen = await self._ask(call)
        if seen is None and not (call.tool and call.tool.conclusive):
            return self._in_doubt()
        return seen

    async def _ask(self, call: Call) -> Outcome | None:
        """What the tool's hook sees of the call outside: recorded, in doubt where it cannot say, None for nothing."""
        tool = call.tool
        if tool is None or call.arguments is None or tool.conclusive is None:
            return self._in_doubt()
        try:
            async with asyncio.timeout(tool.timeout_s):
                seen = await tool.ask(self._context(call), call.arguments)
        except Exception as error:  # noqa: BLE001 - the author's code: whatever it raises, the outcome stays unknown
            log.warning("reconcile of %s failed: %s", tool.name, type(error).__name__)
            return self._in_doubt()
        return None if seen is None else self._recorded(seen)

    async def _execute(self, call: Call) -> Outcome:
        tool, arguments = call.tool, call.arguments
        assert tool is not None and arguments is not None
        # The last look before the call leaves: a pod that was paused since its intent must take it anew, or stop.
        if self._left_s() <= 0:
            await insist(lambda: self._intend([call]))
        limit = asyncio.timeout(tool.timeout_s)
        try:
            async with limit:
                return self._recorded(await tool.call(self._context(call), arguments))
        except ToolError as error:
            return self._failed(str(error))
        except (Exception, asyncio.CancelledError) as error:  # the author's code: its type is told, its text is not
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the runtime stops the call; anything else is a cancellation of the tool's own making
            what = f"failed with {type(error).__name__}"
            if limit.expired():
                what = f"did not answer within {tool.timeout_s:g} s"
            log.warning("tool %s %s", tool.name, what)
            return await self._unknown(call, f"The tool {what}.")

    async def _unknown(self, call: Call, what: str) -> Outcome:
        """A call that ended without an answer: only `ToolError` says that nothing has happened."""
        if call.planned.effect == Effect.READ_ONLY:
            return self._failed(what)
        seen = await self._ask(call)
        if seen is None and call.tool is not None and call.tool.conclusive:
            # The author's word holds for what is not there when the lock has run out, so it must.
            call.intended = False
            await asyncio.sleep(max(0.0, self._deadline_ms - boottime_ms()) / 1000)
            seen = await self._ask(call)
            if seen is None:
                return self._failed(what)
        if seen is None or seen.state == "in_doubt":
            return self._in_doubt(what)
        return seen

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

    # --- outcomes -------------------------------------------------------------------------------------------------

    def _recorded(self, output: str) -> Outcome:
        limit = self._limits.tool_output_bytes
        raw = output.encode(errors="replace")  # a lone surrogate is no text; the effect has happened all the same
        if len(raw) > limit:
            return self._make("recorded", raw[:limit].decode(errors="ignore") + _CUT, None)
        return self._make("recorded", raw.decode(), None)

    def _failed(self, error: str) -> Outcome:
        return self._make("failed", None, error[: self._limits.tool_output_bytes].encode(errors="replace").decode())

    def _in_doubt(self, what: str = "") -> Outcome:
        return self._make("in_doubt", None, f"{what} {IN_DOUBT_TEXT}".strip())

    def given_up(self, call: Call) -> Outcome:
        """The outcome of a call that nobody will make any more; what was intended may have happened."""
        return self._failed("The call was not made.") if call.intent is None else self._in_doubt()

    def _make(self, state: str, output: str | None, error: str | None) -> Outcome:
        return Outcome(state, output, error, wall_ms(), self._pod, self._owned.attempt)
