"""From a message to its run: own the session, join the run that the message already is, or wait in line for it.

Whoever waits or follows also looks at the lease of the owner it depends on, and claims a run whose owner is gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from agentrt.agent import Agent
from agentrt.errors import AgentrtError, OwnershipLost, StoreUnavailable
from agentrt.records import TERMINAL, Request
from agentrt.runtime import response
from agentrt.runtime.heartbeat import Heartbeat
from agentrt.runtime.log import Frame, Listener
from agentrt.runtime.services import Services
from agentrt.runtime.turn import Turn, TurnEnd
from agentrt.store.events import RunState
from agentrt.store.keys import SessionKeys, lease_member, new_id
from agentrt.store.ownership import Owned, Owner
from agentrt.store.sessions import Begin, Blocked, Busy, Conflict, Ended, Fork, Joined, Missing, Waiting
from agentrt.tasks import end

__all__ = ["Admission", "InDoubt", "Locked", "NoSuchSession", "NotTheTail", "OtherBody", "Overloaded", "Place"]

log = logging.getLogger("agentrt.admission")

_T = TypeVar("_T")

_POLL_S = 1.0
"""The poll behind every wait; notices make it faster, never more right."""
_FIRST_LOOK_S = 0.1
"""The first look at an owner comes soon: a client whose pod was killed is back within a second."""
_SILENCE_S = 1.0
"""A pod that has had no subscription for this long seems gone; a living one takes up a broken one at once."""
_RETRY_AFTER_S = 5
_KEEP_PLACE_MS = (_RETRY_AFTER_S + 5) * 1000


class Locked(AgentrtError):
    """Another message is being worked on. `run` is the live one."""

    retry_after_s = _RETRY_AFTER_S

    def __init__(self, run: str) -> None:
        super().__init__("another message of this conversation is being worked on")
        self.run = run


class InDoubt(AgentrtError):
    """An effect of the session is in doubt, and its tool holds up the session until somebody resolves it."""

    def __init__(self, session: SessionKeys, run: str, key: str) -> None:
        super().__init__("the outcome of an action of this conversation is not known; it must be resolved first")
        self.effect = f"{session.tenant}/{session.id}/{run}/{key}"


class OtherBody(AgentrtError):
    """The idempotency key was used with another body."""


class NoSuchSession(AgentrtError):
    """There is no such conversation."""


class NotTheTail(AgentrtError):
    """The response that this message continues is not the newest one: it forks."""


class Overloaded(AgentrtError):
    """All slots of this pod are taken."""

    retry_after_s = 1


@dataclass(slots=True)
class Place:
    """What became of a message: a run of its own (`owned`), or a run to follow."""

    session: SessionKeys
    run: str
    owned: Owned | None = None
    request: Request | None = None
    inputs: list[dict[str, Any]] | None = None
    """What the client sent, where this pod has it at hand; else the run's record has it."""
    message: Begin | None = field(default=None, compare=False)
    """The message, for a run that it follows: it goes on with the run itself should whoever waits with it give up."""


class Admission:
    """Admits messages and keeps runs going on this pod."""

    def __init__(self, services: Services, agents: Mapping[str, Agent], heartbeat: Heartbeat, max_runs: int) -> None:
        self._services = services
        self._agents = agents
        self._heartbeat = heartbeat
        self._max_runs = max_runs
        self._in_flight = 0
        self._silent: dict[str, tuple[float, float]] = {}
        """Pods without a subscription: since when, and when that was last seen."""
        self._tasks: set[asyncio.Task[Any]] = set()
        services.telemetry.runs_capacity.set(max_runs)
        services.telemetry.runs_in_flight.set_function(lambda: self._in_flight)

    async def aclose(self) -> None:
        """Stop all runs of this pod where they are; their leases run out, and other pods go on with them."""
        await asyncio.gather(*(end(task) for task in list(self._tasks)))

    async def enter(self, want: Begin) -> Place:
        """Find the run of a message, waiting in line for as long as the settings allow.

        Raises `Locked`, `OtherBody`, `NoSuchSession`, `NotTheTail`, `Overloaded`.
        """
        if self._in_flight >= self._max_runs:
            raise Overloaded("all slots of this pod are taken")
        services = self._services
        member = lease_member(want.session, want.run, want.token)
        entered = services.leases.entering(member)  # the lease first, the session second, both in one write
        try:
            outcome = await services.sessions.begin(want)
        except BaseException as error:
            entered.abandon()
            if not isinstance(error, StoreUnavailable | asyncio.CancelledError):
                services.leases.end(member)  # refused for good: nothing was begun that the lease could stand for
            raise
        await entered
        if isinstance(outcome, Owned):
            self._count("owned")
            return Place(want.session, want.run, outcome)
        return await self._follow_outcome(want, member, outcome)

    async def _follow_outcome(self, want: Begin, member: bytes, outcome: Any) -> Place:
        services = self._services
        if isinstance(outcome, Waiting):
            if outcome.run != want.run:  # the message has its place already, under this id
                want = replace(want, run=outcome.run, by_key=True)
                services.leases.end(member)
                member = lease_member(want.session, want.run, want.token)
                await services.leases.entering(member)
            self._count("waiting")
            return await self._wait(want, member)
        services.leases.end(member)
        match outcome:
            case Joined():
                self._count("joined")
                return Place(want.session, outcome.run, message=want)
            case Ended():
                self._count("ended")
                return await self._ended(want, outcome.run)
            case Busy():
                self._count("busy")
                await self._look_after(want.session, outcome.live)
                raise Locked(outcome.live.run)
            case Blocked():
                raise InDoubt(want.session, outcome.run, outcome.key)
            case Conflict():
                raise OtherBody("this Idempotency-Key was used with another request body")
            case Missing():
                raise NoSuchSession("no such conversation")
            case Fork():
                raise NotTheTail("the previous response is not the newest of its conversation")
        raise AssertionError(outcome)

    async def _ended(self, want: Begin, run: str) -> Place:
        """The message has a result: replay it; a failure that may pass is resumed instead."""
        state, _ = await self._services.events.read(want.session, run, -1)
        if state is not None and state.retry and run != want.run:
            return await self.enter(replace(want, run=run, by_key=True, token=new_id()))
        return Place(want.session, run)

    async def _wait(self, want: Begin, member: bytes) -> Place:
        """Wait in line: told by a notice, sure by asking again, which is harmless under the same token."""
        services = self._services
        give_up = time.monotonic() + services.config.wait_ms / 1000
        notice = services.notices.subscribe(want.run)
        pause_s = _FIRST_LOOK_S
        self._heartbeat.hold(member, lambda: None)
        try:
            while True:
                outcome = await services.sessions.begin(want)
                if isinstance(outcome, Owned):
                    return Place(want.session, want.run, outcome)
                if not isinstance(outcome, Waiting):
                    return await self._follow_outcome(want, member, outcome)
                await self._look_after(want.session, outcome.live)
                left_s = give_up - time.monotonic()
                if left_s <= 0:
                    if await services.sessions.leave(want.session, want.run, want.token, _KEEP_PLACE_MS):
                        continue  # granted in this very moment
                    raise Locked(outcome.live.run)
                await _heard(notice, min(pause_s, left_s))
                pause_s = _POLL_S
        except BaseException:
            services.leases.end(member)
            raise
        finally:
            self._heartbeat.drop(member)
            services.notices.unsubscribe(want.run, notice)

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, place: Place, listener: Listener | None = None) -> TurnEnd | None:
        """Work on an owned run until it is committed; None when another pod took it, which a follower then follows."""
        owned = place.owned
        assert owned is not None
        services = self._services
        member = owned.lease
        self._in_flight += 1
        started = time.perf_counter()
        agent_name, status = "", "lost"
        try:
            request, inputs = _work(place)
            agent = self._agents.get(request.agent)
            if agent is None:
                raise OwnershipLost(f"run {owned.run.id}: this pod has no agent {request.agent!r}")
            agent_name = agent.name
            turn = Turn(services, agent, owned, request, inputs, listener)
            self._heartbeat.hold(member, lambda: self._check_lease(owned, turn))
            end = await turn.run()
            status = end.status
            services.leases.end(member)
            return end
        except OwnershipLost as error:
            log.info("stopped: %s", error)
            services.telemetry.ownership_lost.inc()
            return None
        finally:
            self._heartbeat.drop(member)
            services.notices.cancelled.discard(owned.run.id)
            self._in_flight -= 1
            services.telemetry.turns.labels(agent_name, status).inc()
            services.telemetry.turn_seconds.labels(agent_name).observe(time.perf_counter() - started)

    def run_in_background(self, place: Place, listener: Listener | None = None) -> asyncio.Task[TurnEnd | None]:
        """Work on an owned run in a task of the pod's own: no client's going away ends it."""
        return self._spawn(self.run(place, listener))

    def bring(self, message: Begin) -> None:
        """Begin a message that no client waits for, and work on it."""
        self._spawn(self._bring(message))

    async def _bring(self, message: Begin) -> None:
        place = await self._entered(message)
        if place.owned is not None:
            await self.run(place)

    async def _entered(self, message: Begin) -> Place:
        """As `enter`, with the work at hand."""
        place = await self.enter(message)
        if place.owned is not None and place.owned.record is None:
            place.request, place.inputs = Request.decode(message.request), orjson.loads(message.input)
        return place

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)
        return task

    def _ended_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a run stopped here, its lease runs out: %s: %s", type(error).__name__, error)

    def _check_lease(self, owned: Owned, turn: Turn) -> None:
        self._spawn(self._lease_missing(owned, turn))

    async def _lease_missing(self, owned: Owned, turn: Turn) -> None:
        """Somebody took a lease of ours: still the owner? then enter it again; else stop."""
        if await self._services.sessions.owns(owned):
            await self._services.leases.entering(owned.lease)
        else:
            turn.lost()

    # --- following ------------------------------------------------------------------------------------------------

    async def result(self, place: Place) -> RunState | None:
        """Wait until a run has ended. None where there is no such run."""
        last = None
        async for state, _ in self._states(place, -1):
            last = state
        return last

    async def frames(self, place: Place, after: int = -1) -> AsyncGenerator[list[Frame], None]:
        """The events of a run numbered above `after`, in batches, until its end; from any pod."""
        async for state, logged in self._states(place, after):
            ended = state.status in TERMINAL
            if ended and (state.log < 0 or (after < 0 and not logged)):  # never logged, or the log has expired
                logged = list(response.replay(state.result))  # noqa: PLW2901
            batch: list[Frame] = []
            for position, frame in enumerate(logged):
                event = orjson.loads(frame)
                if event["sequence_number"] <= after:
                    continue
                last = ended and position == len(logged) - 1
                kind = event["type"]
                if kind in response.TERMINAL_EVENTS and not last:
                    continue  # the end of an attempt that was resumed
                after = event["sequence_number"]
                batch.append((after, kind, frame))
            if batch:
                yield batch

    async def _states(self, place: Place, after: int) -> AsyncGenerator[tuple[RunState, list[bytes]], None]:
        """What is new of a run, again and again until it has ended; looks after its owner meanwhile."""
        services, session, run = self._services, place.session, place.run
        notice = services.notices.subscribe(run)
        nowhere, pause_s = 0, _FIRST_LOOK_S
        try:
            while True:
                state, logged = await services.events.read(session, run, after)
                if state is None:
                    return
                yield state, logged
                if state.status in TERMINAL:
                    return
                after = max(after, state.log)
                # Neither live nor in line, twice: whoever waited with it went away before its turn came.
                live = state.live
                nowhere = nowhere + 1 if (live is None or live.run != run) and not state.in_line else 0
                if nowhere > 1:
                    if place.message is None:
                        return
                    await self._take_over(place.message, run)
                    nowhere = 0
                if not await _heard(notice, pause_s) and live is not None:
                    await self._look_after(session, live)
                pause_s = _POLL_S
        finally:
            services.notices.unsubscribe(run, notice)

    async def _take_over(self, message: Begin, run: str) -> None:
        """Go on with a message that somebody else had brought here first, in the line or at work."""
        place = await self._entered(replace(message, run=run, by_key=True, token=new_id()))
        if place.owned is not None:
            self.run_in_background(place)

    async def _look_after(self, session: SessionKeys, owner: Owner) -> None:
        """Claim a run whose owner is gone, and go on with it here."""
        services = self._services
        theirs = lease_member(session, owner.run, owner.token)
        early = await services.leases.left_ms(theirs) > 0
        if early and not await self._vanished(owner.pod):
            return
        token = new_id()
        mine = lease_member(session, owner.run, token)
        await services.leases.entering(mine)
        owned = await services.sessions.claim(session, owner, token, early=early)
        if owned is None:
            services.leases.end(mine)
            if not early:
                services.leases.end(theirs)  # it ran out, and its holder owns nothing any more
            return
        services.leases.end(theirs)
        self._count("claimed")
        log.info("claimed run %s, attempt %d", owner.run, owned.attempt)
        self.run_in_background(Place(session, owner.run, owned))

    async def _vanished(self, pod: str) -> bool:
        """Whether a pod has not been listening for a while. It may live all the same: then its fence stops it."""
        now = time.monotonic()
        since, looked = self._silent.pop(pod, (now, now))
        if pod == self._services.config.pod or await self._services.notices.listening(pod):
            return False
        if now - looked > 2 * _POLL_S:
            since = now  # nobody looked for a while: what was seen then says nothing about the time between
        self._silent[pod] = (since, now)
        return now - since >= _SILENCE_S

    def _count(self, outcome: str) -> None:
        self._services.telemetry.begins.labels(outcome).inc()


def _work(place: Place) -> tuple[Request, list[dict[str, Any]]]:
    """What the client asked for and sent: at hand, or as an earlier attempt kept it."""
    if place.request is not None and place.inputs is not None:
        return place.request, place.inputs
    record = place.owned.record if place.owned else None
    if record is None:
        raise AssertionError("a run without its request")
    return Request.decode(record["request"]), orjson.loads(record["input"])


async def _heard(notice: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a notice, or for the poll's time."""
    try:
        async with asyncio.timeout(timeout_s):
            await notice.wait()
    except TimeoutError:
        return False
    notice.clear()
    return True
