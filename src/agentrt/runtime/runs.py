"""The runs that this pod works on: its slots, and what becomes of the runs when the pod goes.

A run that cannot go on here is handed over: its session lets go of it, its lease becomes an entry of the queue, and the
pod that takes it goes on from the last written step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from agentrt.agent import Agent
from agentrt.errors import AgentrtError, ForeignState, NotAcknowledged, OwnershipLost
from agentrt.logs import RUN
from agentrt.records import Request
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.heartbeat import Heartbeat
from agentrt.runtime.log import Listener
from agentrt.runtime.services import Services
from agentrt.runtime.turn import Turn, TurnEnd
from agentrt.store.access import Left
from agentrt.store.begin import Begin
from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import Owned
from agentrt.store.queue import DeadLetter, Urgency, run_name
from agentrt.tasks import end
from agentrt.tracing import exemplar

__all__ = ["Place", "Runs"]

log = logging.getLogger("agentrt.runs")

_T = TypeVar("_T")

_POSTPONE_S = 1.0
_POSTPONE_S_MAX = 30.0
"""How long a run rests whose effects replicas did not acknowledge."""

_LEAVE_S = 5.0
"""How long the runs of a leaving pod may take to be handed over, once they were told."""


@dataclass(slots=True)
class Place:
    """What became of a message: a run of its own (`owned`), or a run to follow."""

    session: SessionKeys
    run: str
    owned: Owned | None = None
    request: Request | None = None
    inputs: list[dict[str, Any]] | None = None
    """What the client sent, where this pod has it at hand; else the run's record has it."""
    seated: bool = False
    """The message became this run by now: here, or in the queue."""
    left: Sequence[Left] = field(default=(), compare=False)
    """What is left of the tenant's quota, of a message that was counted."""
    message: Begin | None = field(default=None, compare=False)
    """The message, for a run that it follows: it goes on with the run itself should whoever waits with it give up."""


@dataclass(slots=True)
class _Shift:
    """What is counted of one pod's work on a run; `tokens`: what it knows that it cost; `exemplar`: its trace."""

    started: float
    agent: str = ""
    status: str = "lost"
    tokens: int | None = None
    exemplar: dict[str, str] | None = None


class Runs:
    """Runs at work, at most `max_runs` at once; one that was tried `attempts_max` times in vain is given up."""

    def __init__(
        self,
        services: Services,
        agents: Mapping[str, Agent],
        heartbeat: Heartbeat,
        max_runs: int,
        attempts_max: int = 3,
    ) -> None:
        self._services = services
        self._agents = agents
        self._heartbeat = heartbeat
        self._max_runs = max_runs
        self._attempts_max = attempts_max
        self._in_flight = 0
        self.expected = 0
        """Slots that are promised to runs on their way here."""
        self.on_free: Callable[[], None] = lambda: None
        """Called when a slot becomes free."""
        self.on_jobs: Callable[[], None] = lambda: None
        """Called when a run left something to do in the background."""
        self._at_work: dict[asyncio.Task[Any], Owned] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._leaving = False
        self._left: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()
        """Set when nothing is at work here any more, for good: whoever follows a run here is sent elsewhere."""
        services.telemetry.runs_capacity.set(max_runs)
        services.telemetry.runs_in_flight.set_function(lambda: self._in_flight)

    @property
    def free(self) -> int:
        """Slots that are free; none on a pod that leaves."""
        return 0 if self._left is not None else self._max_runs - self._in_flight - self.expected

    @property
    def in_flight(self) -> int:
        """Runs that this pod works on."""
        return self._in_flight

    def report(self) -> dict[str, Any]:
        """What of it an operator would ask."""
        return {"runs_in_flight": self._in_flight, "runs_capacity": self._max_runs, "leaving": self._left is not None}

    async def aclose(self) -> None:
        """Hand over what is still at work."""
        await self.leave(0)
        await asyncio.gather(*(end(task) for task in list(self._tasks)))

    # --- working --------------------------------------------------------------------------------------------------

    async def run(self, place: Place, listener: Listener | None = None) -> TurnEnd | None:
        """Work on an owned run until it is committed; None when it goes on elsewhere, where a follower finds it."""
        owned = place.owned
        task = asyncio.current_task()
        assert owned is not None and task is not None
        with self._shift(owned, task) as shift:
            try:
                return await self._work(place, owned, shift, listener)
            except OwnershipLost as error:
                log.info("stopped: %s", error)
                self._services.telemetry.ownership_lost.inc()
            except NotAcknowledged as error:
                shift.status = "postponed"
                await self._postpone(owned, error)
            except asyncio.CancelledError:
                if not self._leaving:
                    raise
                task.uncancel()
                shift.status = "handed_over"
                await self._put_back(owned)
        return None

    async def _work(self, place: Place, owned: Owned, shift: _Shift, listener: Listener | None) -> TurnEnd | None:
        services, member = self._services, owned.lease
        request, inputs = _message(place)
        shift.exemplar = exemplar(request.trace)
        agent = self._agents.get(request.agent)
        if agent is None or self._leaving:
            shift.status = "handed_over"
            await self._put_back(owned, request.agent)
            return None
        shift.agent = agent.name
        turn = Turn(services, agent, owned, request, inputs, listener)
        self._heartbeat.hold(member, lambda: self._check_lease(owned, turn))
        ended = await self._traced(turn, owned, request, agent)
        shift.status, shift.tokens = ended.status, ended.tokens
        if turn.first_token_at is not None:
            first = services.telemetry.first_token_seconds.labels(agent.name)
            first.observe(turn.first_token_at - shift.started, shift.exemplar)
        if turn.jobs:
            services.jobs.finish(owned.session.tenant, turn.jobs, member)
            self.on_jobs()
        else:
            services.leases.end(member)
        return ended

    @contextmanager
    def _shift(self, owned: Owned, task: asyncio.Task[Any]) -> Iterator[_Shift]:
        """What holds while this pod works on a run: a slot, its notices, its place in the quota; counted at the end."""
        services, where = self._services, (owned.session.tenant, owned.session.id, owned.run.id)
        self._in_flight += 1
        self._at_work[task] = owned
        self._listen_for(owned)
        logged = RUN.set(owned.run.id)
        services.allowance.work(*where, again=owned.record is not None)
        shift = _Shift(time.perf_counter())
        try:
            yield shift
        finally:
            RUN.reset(logged)
            self._heartbeat.drop(owned.lease)
            services.allowance.rest(*where, shift.tokens)
            services.notices.cancelled.pop(owned.run.id, None)
            services.notices.steered.discard(owned.run.id)
            services.notices.at_work.discard(owned.run.id)
            self._in_flight -= 1
            del self._at_work[task]
            if not self._at_work:
                self._idle.set()
            self.on_free()
            services.telemetry.turns.labels(shift.agent, shift.status).inc()
            spent = services.telemetry.turn_seconds.labels(shift.agent)
            spent.observe(time.perf_counter() - shift.started, shift.exemplar)

    async def _traced(self, turn: Turn, owned: Owned, request: Request, agent: Agent) -> TurnEnd:
        """Work on the run, or give it up, within the span of this attempt."""
        tracing = self._services.tracing
        conversation = f"conv_{owned.session.id}"
        with tracing.run(request.trace, agent.name, conversation, owned.run.id, owned.attempt) as span:
            ended = await (self._give_up(turn, owned, agent) if owned.tries > self._attempts_max else turn.run())
            tracing.ended(span, ended.status, ended.status == "failed")
        return ended

    def _listen_for(self, owned: Owned) -> None:
        """Notices of this run count from here; what was asked before this pod could hear of it is in its record."""
        notices, run = self._services.notices, owned.run.id
        notices.at_work.add(run)
        if owned.record is not None:
            notices.steered.add(run)
            if how := owned.record.get("cancel"):
                notices.cancelled[run] = how.decode()

    def start(self, place: Place, listener: Listener | None = None) -> asyncio.Task[TurnEnd | None]:
        """Work on an owned run in a task of the pod's own: no client's going away ends it."""
        return self.spawn(self.run(place, listener))

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine that nobody waits for; it ends with the pod."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)
        return task

    def _ended_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a run stopped here, its lease runs out: %s: %s", type(error).__name__, error)
            if isinstance(error, ForeignState):
                self._services.telemetry.identity_mismatches.inc()

    def hold(self, member: bytes) -> None:
        """Renew the lease of a message that waits in line."""
        self._heartbeat.hold(member, lambda: None)

    def let_go(self, member: bytes) -> None:
        """Renew it no longer."""
        self._heartbeat.drop(member)

    def _check_lease(self, owned: Owned, turn: Turn) -> None:
        self.spawn(self._lease_missing(owned, turn))

    async def _lease_missing(self, owned: Owned, turn: Turn) -> None:
        """Somebody took a lease of ours: still the owner? then enter it again; else stop."""
        if await self._services.sessions.owns(owned):
            await self._services.leases.entering(owned.lease)
        else:
            turn.lost()

    # --- letting go -----------------------------------------------------------------------------------------------

    async def queue(self, owned: Owned, urgency: Urgency) -> None:
        """Leave a run that nobody has worked on yet to whichever pod has room."""
        self._heartbeat.drop(owned.lease)  # or a beat would take it out of the queue again
        await self._services.sessions.hand_over(owned, "waiting")
        await self._services.queue.enqueue(owned.lease, urgency)

    async def park(self, owned: Owned, until_ms: int) -> None:
        """Let go of a run until a time (ms, Redis' clock)."""
        await self._services.sessions.hand_over(owned)
        await self._services.leases.park(owned.lease, until_ms)

    async def _postpone(self, owned: Owned, why: NotAcknowledged) -> None:
        """Let go of a run for a while, longer each time, because replicas do not keep up; that is no attempt."""
        again = int((owned.record or {}).get("spared", 0))
        pause_s = min(_POSTPONE_S * 2 ** min(again, 10), _POSTPONE_S_MAX)
        log.warning("run %s goes on in %g s: %s", owned.run.id, pause_s, why)
        self._heartbeat.drop(owned.lease)
        try:
            now_ms = await self._services.journal.now_ms(owned)
            await self.park(owned, now_ms + int(pause_s * 1000))
        except AgentrtError as error:
            log.info("run %s is not postponed, its lease runs out: %s", owned.run.id, error)

    async def _put_back(self, owned: Owned, unknown_agent: str = "") -> None:
        """Hand a run over; where this pod does not know its agent, others get the time of a lease to take it."""
        self._heartbeat.drop(owned.lease)
        try:
            await self._services.sessions.hand_over(owned)
            if unknown_agent and not self._leaving:
                log.warning("run %s: this pod has no agent %r", owned.run.id, unknown_agent)
                return
            await self._services.queue.enqueue(owned.lease, Urgency.RECOVERED)
        except AgentrtError as error:
            log.info("run %s is not handed over: %s", owned.run.id, error)

    async def _give_up(self, turn: Turn, owned: Owned, agent: Agent) -> TurnEnd:
        """Too many attempts: into the dead letters with it, and an answer for its clients."""
        services, attempts = self._services, owned.tries - 1
        reason = f"{attempts} attempts ended without a result"
        log.error("run %s of agent %s is given up: %s", owned.run.id, agent.name, reason)
        name = run_name(owned.session, owned.run.id)
        await services.queue.bury(DeadLetter(name, reason, agent.name, attempts, services.config.pod, wall_ms()))
        services.telemetry.claims.labels("given_up").inc()
        return await turn.give_up(f"The run was given up: {reason}.")

    async def leave(self, within_s: float) -> None:
        """Let runs end for that long, then hand over what is left. Nothing is begun here any more."""
        if self._left is None:
            self._left = asyncio.get_running_loop().create_task(self._leave(within_s))
        await asyncio.shield(self._left)

    async def _leave(self, within_s: float) -> None:
        await self._until_idle(within_s)
        self._leaving = True
        for task in list(self._at_work):
            task.cancel()
        await self._until_idle(_LEAVE_S)
        self.gone.set()
        self._services.notices.wake_all()

    async def _until_idle(self, within_s: float) -> None:
        if self._at_work and within_s > 0:
            self._idle.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._idle.wait()
            except TimeoutError:
                return


def _message(place: Place) -> tuple[Request, list[dict[str, Any]]]:
    """What the client asked for and sent: at hand, or as an earlier attempt kept it."""
    if place.request is not None and place.inputs is not None:
        return place.request, place.inputs
    record = place.owned.record if place.owned else None
    if record is None:
        raise AssertionError("a run without its request")
    return Request.decode(record["request"]), orjson.loads(record["input"])
