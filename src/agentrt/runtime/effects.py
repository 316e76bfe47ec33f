"""Running the tool calls of one step: under their locks, bounded, with an outcome for each; nothing is made up.

The order of writes is the turn's: it plans the calls before `settle` runs them, and records what `settle` yields.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

from agentrt.agent import Agent, Effect, Tool, ToolContext
from agentrt.errors import LockLost, LockTimeout, NotAcknowledged, ToolError
from agentrt.runtime.calls import IN_DOUBT_TEXT, Call, may_have_left, next_move
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.insist import insist
from agentrt.runtime.intents import Intents
from agentrt.runtime.outcomes import Examination, Outcomes
from agentrt.runtime.services import Services
from agentrt.store.journal import Intent, Outcome, Planned, fingerprint
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned

__all__ = ["Effects"]

log = logging.getLogger("agentrt.effects")

_STOP_S = 5.0
"""How long a tool may take to give up when it is cancelled; then it is left behind."""

_BESIDE: set[asyncio.Task[None]] = set()
"""Writes that nobody waits for; each ends by itself."""


def _beside(write: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(write)
    _BESIDE.add(task)
    task.add_done_callback(_written)


def _written(task: asyncio.Task[None]) -> None:
    _BESIDE.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a write beside a run failed: %s: %s", type(error).__name__, error)


class Effects:
    """Runs the calls of one step of an owned run."""

    def __init__(self, services: Services, agent: Agent, owned: Owned) -> None:
        config = services.config
        self._services = services
        self._journal = services.journal
        self._limits = agent.limits
        self._owned = owned
        self._outcomes = Outcomes(agent.limits, config.pod, owned.attempt)
        self._intents = Intents(services.journal, owned, config.lock_ms, self.stop)
        self._examination = Examination(self._outcomes, self._intents)
        self._failure: BaseException | None = None
        self._postponed: NotAcknowledged | None = None
        """Why calls of the step are left to a later owner of the run; what runs already is seen through."""
        self._running: dict[asyncio.Task[Outcome], Call] = {}

    def prepare(self, planned: Planned, tools: dict[str, Tool], intent: Intent | None = None) -> Call:
        """A planned call with its arguments checked. What cannot be run has its outcome at once."""
        call = Call(planned, tools.get(planned.tool), intent=intent)
        problem = None
        if planned.index >= self._limits.calls_per_step:
            problem = f"Too many calls in one step; the limit is {self._limits.calls_per_step}."
        elif call.tool is None:
            problem = f"There is no tool named {planned.tool!r}."
        elif planned.fingerprint != fingerprint(planned.arguments):
            problem = "The arguments are not those that were planned."
        else:
            try:
                call.arguments = call.tool.parse(planned.arguments)
                call.lock = call.tool.lock_name(call.arguments)
            except ToolError as error:
                problem = str(error)
        if problem is not None:
            # A pod that knew the tool may have made the call: then it is not for this one to say that it failed.
            happened = intent is not None and planned.effect != Effect.READ_ONLY
            call.outcome = self._outcomes.in_doubt() if happened else self._outcomes.failed(problem)
        return call

    def deny(self, call: Call, reason: str) -> None:
        """Somebody was asked and did not approve: the call does not happen."""
        call.outcome = self._outcomes.failed(f"The call was not approved. {reason}".strip())

    def skip(self, call: Call) -> None:
        """The response has made as many calls as its request allows: the call does not happen."""
        call.outcome = self._outcomes.failed("The call was not made: no more calls are allowed in this response.")

    def refuse(self, call: Call) -> None:
        """An earlier call of its tool in this session is in doubt: the call does not happen."""
        if call.outcome is None:
            call.outcome = self._outcomes.failed(IN_DOUBT_TEXT)

    def give_up(self, call: Call) -> None:
        """Nobody will make the call any more; what was intended may have happened."""
        if call.outcome is None:
            happened = call.intent is not None and call.planned.effect != Effect.READ_ONLY
            call.outcome = self._outcomes.in_doubt() if happened else self._outcomes.failed("The call was not made.")

    def start_now(self, calls: Sequence[Call]) -> list[Call]:
        """The calls that start as soon as they are planned; who waits for a place or a lock is only planned."""
        ready = [call for call in calls if call.outcome is None and call.intent is None and call.lock is None]
        return ready[: self._limits.calls_in_parallel]

    async def withdraw(self, calls: Sequence[Call]) -> None:
        """The plan made these calls `intended`, and replicas did not say that they know: they are not made here."""
        await self._intents.withdraw(calls)

    def intended(self, calls: Sequence[Call], sent_at_ms: float) -> None:
        """The plan, sent at `sent_at_ms` (boot time), made these calls `intended`."""
        self._intents.planned(calls, sent_at_ms)

    async def settle(self, calls: Sequence[Call]) -> AsyncGenerator[list[Call], None]:
        """Run what is not settled; yields the calls that got their outcome, those of one tick together.

        Raises `OwnershipLost` or `StoreUnavailable`; running tools are cancelled then, and the journal says what
        is known of them. Raises `NotAcknowledged` when all is settled but calls whose intent too few replicas know.
        """
        settled = [call for call in calls if call.outcome is not None and not call.intended]
        waiting = [call for call in calls if call.outcome is None]
        if settled:
            yield settled
        try:
            while self._running or (waiting and self._postponed is None):
                if self._postponed is None:
                    await self._start(waiting)
                if not self._running:
                    continue
                done = await self._next_done()
                if done:
                    yield done
                for call in done:
                    self._release(call)
            if self._failure is not None:  # what it ended has no outcome: that is for the next owner to find out
                raise self._failure
            if self._postponed is not None:
                raise self._postponed
        finally:
            await self._end()

    def stop(self, error: BaseException) -> None:
        """End what runs, whatever `settle` is doing: its locks are lost, or the session is."""
        if self._failure is None:
            self._failure = error
        for task in self._running:
            task.cancel()

    # --- running --------------------------------------------------------------------------------------------------

    async def _start(self, waiting: list[Call]) -> None:
        """Start as many calls as there are free places; one write makes them intended."""
        if self._failure is not None:  # or what is not begun would look as if it might have happened
            raise self._failure
        free = self._limits.calls_in_parallel - len(self._running)
        starting = waiting[: max(0, free)]
        unmarked = [call for call in starting if not call.intended and call.lock is None and self._plain(call)]
        if unmarked:
            try:
                await insist(lambda: self._intents.take(unmarked))
            except NotAcknowledged as error:
                self._postponed = error
                return
        if self._failure is not None:
            raise self._failure
        del waiting[: len(starting)]
        loop = asyncio.get_running_loop()
        for call in starting:
            self._running[loop.create_task(self._outcome(call))] = call

    def _plain(self, call: Call) -> bool:
        return next_move(call, self._owned.token, wall_ms()) == "run"

    async def _next_done(self) -> list[Call]:
        """Wait for outcomes. What failed is raised only when the outcomes that came with it are out of the house."""
        finished, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        done = []
        for task in finished:
            call = self._running.pop(task)
            self._intents.drop(call)
            if task.cancelled():
                if self._failure is None:  # by its lock, while it was being found out what became of it
                    call.outcome = self._stopped(call)
                    done.append(call)
                continue
            if isinstance(error := task.exception(), NotAcknowledged):
                self._postponed = error
                self._release(call)
            elif error is not None:
                self.stop(error)
            else:
                call.outcome = task.result()
                done.append(call)
        if self._failure is not None and not done:
            raise self._failure
        return done

    def _stopped(self, call: Call) -> Outcome:
        what = "The tool was stopped because its lock was lost."
        of = self._outcomes.failed if call.planned.effect == Effect.READ_ONLY else self._outcomes.in_doubt
        return of(what)

    async def _end(self) -> None:
        self._intents.end()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)
        for call in self._running.values():
            self._release(call)
        self._running.clear()

    def _release(self, call: Call) -> None:
        """Give a named lock back, when the outcome is recorded or this pod has stopped; nobody waits for it."""
        if call.held is not None:
            _beside(call.held.release())
            call.held = None

    async def _outcome(self, call: Call) -> Outcome:
        """The outcome of one call, after whatever its journal asks for first."""
        move = next_move(call, self._owned.token, wall_ms())
        if move.endswith("after_lock"):
            await self._wait_for_lock(call)
            if move == "judge_after_lock":
                judged = await self._examination.after_a_death(call, self._context(call))
                if judged is not None:
                    return judged
        if call.lock is not None:
            return await self._execute_locked(call, call.lock)
        if not call.intended:
            await insist(lambda: self._intents.take([call]))
        return await self._execute(call)

    async def _execute_locked(self, call: Call, name: str) -> Outcome:
        """Acquire, intend, call; the lock goes when the turn has recorded the outcome."""
        task = asyncio.current_task()
        assert task is not None and call.tool is not None
        tenant, wait_s = self._owned.session.tenant, call.tool.timeout_s
        try:
            # Each try under a token of its own: what gives back an earlier one is on its way, and must not find this.
            held = call.held = await insist(lambda: self._services.locks.acquire(tenant, name, new_id(), wait_s))
        except LockTimeout:
            return self._outcomes.failed("What this call needs is in use by another one; the call was not made.")
        held.tell(task.cancel)
        try:
            await insist(lambda: self._intents.take([call]))
            held.check()
        except (asyncio.CancelledError, LockLost):
            if not held.lost.is_set():
                raise
            task.uncancel()
            return self._outcomes.failed("The lock of this call was lost; the call was not made.")
        return await self._execute(call)

    async def _wait_for_lock(self, call: Call) -> None:
        """Until the deadline of a dead owner's intent has passed: it may be paused, and about to send."""
        if call.intent is None:
            return
        left_ms = call.intent.lock_until_ms - await insist(lambda: self._journal.now_ms(self._owned))
        if left_ms > 0:
            await asyncio.sleep(left_ms / 1000)

    async def _execute(self, call: Call) -> Outcome:
        tool, arguments = call.tool, call.arguments
        assert tool is not None and arguments is not None
        # The last look before the call leaves: a pod that was paused since its intent must take it anew, or stop.
        if self._intents.left_s <= 0:
            await insist(lambda: self._intents.take([call]))
        limit = asyncio.timeout(tool.timeout_s)
        tracing, planned = self._services.tracing, call.planned
        try:
            with tracing.tool(tool.name, planned.item, planned.effect) as span:
                async with limit:
                    output = await tool.call(self._context(call), arguments, self._late_to(call))
                tracing.called(span, planned.arguments, output)
            return self._outcomes.recorded(output)
        except ToolError as error:
            return self._outcomes.failed(str(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the author's code: only its type is told
            return await self._ended_by(call, error, limit.expired())

    async def _ended_by(self, call: Call, error: BaseException, expired: bool) -> Outcome:
        """A call that ended otherwise than its author meant it to."""
        task, tool = asyncio.current_task(), call.tool
        assert task is not None and tool is not None
        what, on_its_way = f"failed with {type(error).__name__}", may_have_left(error)
        if isinstance(error, asyncio.CancelledError) and task.cancelling():
            if call.held is None or not call.held.lost.is_set():
                raise error  # the runtime stops the call; any other cancellation is of the tool's own making
            task.uncancel()
            what, on_its_way = "was stopped because its lock was lost", True
        elif expired:
            what, on_its_way = f"did not answer within {tool.timeout_s:g} s", True
        log.warning("tool %s %s", tool.name, what)
        if call.held is not None:
            call.held.tell(None)  # from here on nothing leaves: finding out needs no lock
        examine = self._examination.on_its_way if on_its_way else self._examination.of_a_bug
        return await examine(call, self._context(call), f"The tool {what}.")

    def _context(self, call: Call) -> ToolContext:
        owned = self._owned
        return ToolContext(
            tenant=owned.session.tenant,
            session=owned.session.id,
            run=owned.run.id,
            tool=call.planned.tool,
            idempotency_key=call.planned.key,
            fencing_token=call.held.fence if call.held is not None else owned.fence,
            pod=self._services.config.pod,
            attempt=owned.attempt,
            user=owned.user or None,
            deps=self._services.deps,
        )

    def _late_to(self, call: Call) -> Callable[[str], None]:
        """Where a result goes that comes when nobody waits for it any more."""

        def keep(output: str) -> None:
            _beside(self._journal.evidence(self._owned, call.planned.key, self._outcomes.recorded(output)))

        return keep
