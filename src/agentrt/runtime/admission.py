"""From a message to its run: own the session, join the run that the message already is, or wait in line for it.

A message that finds no free slot is begun all the same and left to the queue; its client follows it (`following`).
Whoever waits also looks after the owner it depends on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import orjson

from agentrt.errors import AgentrtError, NotAcknowledged, StoreUnavailable
from agentrt.records import Request
from agentrt.runtime import response
from agentrt.runtime.allowance import QuotaExceeded, Ticket
from agentrt.runtime.claims import Claims
from agentrt.runtime.refusals import InDoubt, Leaving, Locked, NoSuchSession, NotTheTail, OtherBody, Overloaded
from agentrt.runtime.runs import Place, Runs
from agentrt.runtime.services import Services
from agentrt.store.begin import Begin, Blocked, Busy, Conflict, Ended, Fork, Joined, Missing, Steered, Waiting
from agentrt.store.keys import SessionKeys, lease_member, new_id
from agentrt.store.notices import heard
from agentrt.store.ownership import Owned
from agentrt.store.queue import Urgency
from agentrt.store.sessions import Commit
from agentrt.store.users import Greeting, Head

__all__ = ["FIRST_LOOK_S", "POLL_S", "Admission", "Place"]

log = logging.getLogger("agentrt.admission")

POLL_S = 1.0
"""The poll behind every wait; notices make it faster, never more right."""
FIRST_LOOK_S = 0.1
"""The first look at an owner comes soon: a client whose pod was killed is back within a second."""
_ENDING = {"interrupt": "1", "rollback": "rollback"}
"""The policies that end what is live, and how they ask for it."""
_KEEP_PLACE_MS = (Locked.retry_after_s + 5) * 1000


class Admission:
    """Admits messages; `queue_limit` bounds what may wait for a pod."""

    def __init__(self, services: Services, runs: Runs, claims: Claims, queue_limit: int) -> None:
        self._services = services
        self._runs = runs
        self._claims = claims
        self._queue_limit = queue_limit
        self.run = runs.run
        self.run_in_background = runs.start

    async def enter(self, want: Begin) -> Place:
        """Find the run of a message, waiting in line for as long as the settings allow.

        Raises `Locked`, `OtherBody`, `NoSuchSession`, `NotTheTail`, `Overloaded`, `QuotaExceeded`, `Leaving`.
        """
        runs = self._runs
        room = runs.free > 0
        if not room and (await self._services.queue.depth()).waiting >= self._queue_limit:
            raise Overloaded("all slots are taken, and as many runs wait as may wait")
        ticket = self._services.allowance.enter(want)
        runs.expected += room  # until begin has been answered
        try:
            place = await self._begin(want, ticket, room)
        except BaseException:
            if ticket is not None:
                ticket.drop()
            raise
        if ticket is not None and place.seated and place.run == want.run:
            place.left = ticket.left
        elif ticket is not None:
            ticket.drop()
        return place

    async def _begin(self, want: Begin, ticket: Ticket | None, room: bool) -> Place:
        services, runs = self._services, self._runs
        member = lease_member(want.session, want.run, want.token)
        # The user's index of sessions first, the lease second, the session third, all in one write.
        greeting = services.recollections.greet(want.session, want.user) if want.user else None
        entered = services.leases.entering(member)
        try:
            if want.background and services.config.acknowledge:  # begin leaves on a connection of its own
                await entered
            outcome = await services.sessions.begin(want, entered)
        except NotAcknowledged:
            await services.queue.enqueue(member, Urgency.BACKGROUND)  # its client is refused, but it may have come far
            raise
        except BaseException as error:
            if greeting is not None:
                greeting.abandon()
            entered.abandon()
            if not isinstance(error, StoreUnavailable | asyncio.CancelledError):
                services.leases.end(member)  # refused for good: nothing was begun that the lease could stand for
            raise
        finally:
            runs.expected -= room
        head = await _head(greeting)
        try:
            await entered
            refusal = await ticket.refusal() if ticket is not None else None
        except StoreUnavailable:
            if isinstance(outcome, Owned):
                await self._unbegin(want, outcome)
            elif isinstance(outcome, Waiting):
                self._runs.spawn(self._step_out(want, member))
            raise
        if refusal is not None and isinstance(outcome, Owned | Waiting) and _run_of(outcome) == want.run:
            await self._send_away(want, outcome, refusal)
            services.leases.end(member)
            raise refusal
        if isinstance(outcome, Owned):
            outcome.head = head
            self._count("owned" if room else "queued")
            return await self._seated(want, outcome, room)
        return await self._follow_outcome(want, member, outcome)

    async def _unbegin(self, want: Begin, owned: Owned) -> None:
        """The session could be reached and the queue, or the quota, could not: without a lease nobody would miss its
        owner. Ended as a failure that passes, the message is free to come again at once.
        """
        try:
            await self._fail(want, owned, "server_error", "Redis was not reachable.")
        except AgentrtError as problem:
            log.info("run %s has an owner and no lease: %s", want.run, problem)

    async def _seated(self, want: Begin, owned: Owned, room: bool) -> Place:
        """The place of a run that this pod owns: here, or in the queue with the client following."""
        if room:
            return Place(want.session, want.run, owned, seated=True)
        await self._runs.queue(owned, Urgency.BACKGROUND if want.background else Urgency.INTERACTIVE)
        return Place(want.session, want.run, message=want, seated=True)

    async def _send_away(self, want: Begin, outcome: Owned | Waiting, refusal: QuotaExceeded) -> None:
        """Take back what `begin` has done for a message whose tenant has used up its quota."""
        services = self._services
        if isinstance(outcome, Waiting):
            if not await services.sessions.leave(want.session, want.run, want.token, 0):
                return
            granted = await services.sessions.begin(want)  # in this very moment
            if not isinstance(granted, Owned):
                return
            outcome = granted
        if want.create and outcome.attempt == 1 and outcome.first == 0:
            await services.conversations.delete(want.session)
            return
        await self._fail(want, outcome, "rate_limit_exceeded", str(refusal))

    async def _fail(self, want: Begin, owned: Owned, code: str, why: str) -> None:
        """End a run that nobody has worked on, as a failure that passes. What an earlier attempt of it left stays, and
        what came to it meanwhile waits with it.
        """
        identifier, error = response.response_id(want.session.id, want.run), response.error_body(code, why)
        result = orjson.dumps(response.body(Request.decode(want.request), identifier, "failed", error=error))
        skip = int((owned.record or {}).get("n_items", 0))
        commit = Commit("failed", result, (), skip, retry=True, planned=False, alone=want.alone)
        sessions = self._services.sessions
        while await sessions.commit(owned, commit) is None:
            commit = replace(commit, steered=len(await sessions.steers(owned)))

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
                await self._claims.look_after(want.session, outcome.live)
                if want.policy == "steer":
                    return await self._steer(want, outcome.live.run)
                self._count("busy")
                raise Locked(outcome.live.run)
            case Steered():
                self._count("steered")
                return await self._ended(want, outcome.run)
            case Blocked():
                raise InDoubt(want.session, outcome.run, outcome.key)
            case Conflict():
                raise OtherBody("this Idempotency-Key was used with another request body")
            case Missing() if want.create:  # the key's session is one of a single run, of another kind of request
                raise OtherBody("this Idempotency-Key was used with another request")
            case Missing():
                raise NoSuchSession("no such conversation")
            case Fork():
                raise NotTheTail("the previous response is not the newest of its conversation")
        raise AssertionError(outcome)

    async def _ended(self, want: Begin, run: str) -> Place:
        """The message has a result, its own or that of a run it was given to: show it; a failure that may pass is
        resumed instead, under that run's own message.
        """
        sessions = self._services.sessions
        state, _ = await self._services.events.read(want.session, run, -1)
        if state is not None and state.retry and run != want.run:
            message = await sessions.message(want.session, run)
            if message is not None:
                return await self.enter(replace(message, policy="wait"))
        return Place(want.session, run)

    async def _steer(self, want: Begin, live: str) -> Place:
        """Give the message to the live run; where that has just ended, or takes no more, it is one like any other."""
        steered = await self._services.sessions.steer(want, live)
        if steered is None:
            return await self.enter(replace(want, policy="wait"))
        if isinstance(steered, Conflict):
            raise OtherBody("this Idempotency-Key was used with another request body")
        self._count("steered")
        return Place(want.session, steered.run)

    async def _wait(self, want: Begin, member: bytes) -> Place:
        """Wait in line: told by a notice, sure by asking again, which is harmless under the same token."""
        services = self._services
        give_up = time.monotonic() + services.config.wait_ms / 1000
        notice = services.notices.subscribe(want.run)
        pause_s = FIRST_LOOK_S
        self._runs.hold(member)
        try:
            while True:
                outcome = await services.sessions.begin(want)
                if isinstance(outcome, Owned):
                    return await self._seated(want, outcome, self._runs.free > 0)
                if not isinstance(outcome, Waiting):
                    return await self._follow_outcome(want, member, outcome)
                await self._claims.look_after(want.session, outcome.live)
                if want.policy in _ENDING:  # again and again: its owner may not have heard
                    await self._interrupt(want.session, outcome.live.run, _ENDING[want.policy])
                left_s = give_up - time.monotonic()
                leaving = self._runs.gone.is_set()
                if left_s <= 0 or leaving:
                    if await services.sessions.leave(want.session, want.run, want.token, _KEEP_PLACE_MS):
                        continue  # granted in this very moment
                    if leaving:
                        raise Leaving("this pod goes away")
                    raise Locked(outcome.live.run)
                await heard(notice, min(pause_s, left_s))
                pause_s = POLL_S
        except (Locked, Leaving):
            services.leases.end(member)
            raise
        except BaseException:
            self._runs.spawn(self._step_out(want, member))
            raise
        finally:
            self._runs.let_go(member)
            services.notices.unsubscribe(want.run, notice)

    async def _step_out(self, want: Begin, member: bytes) -> None:
        """A client in line has gone: its place is kept for its return. The lease ends when the place is known not to be
        granted; else it runs out, and whoever finds that goes on with the run.
        """
        try:
            granted = await self._services.sessions.leave(want.session, want.run, want.token, _KEEP_PLACE_MS)
        except StoreUnavailable as error:
            log.info("run %s keeps its place in line: %s", want.run, error)
            return
        if not granted:
            self._services.leases.end(member)

    def bring(self, message: Begin) -> asyncio.Task[bool]:
        """Begin a message that no client waits for, and work on it.

        It goes on with what was admitted before: the queue's limit and the tenant's quota do not refuse it, and nobody
        would send it again, so it is tried for as long as this pod is there. The task ends when it has begun, and would
        be gone on with by others; it says False where another effect in doubt holds up the session: of the same run,
        then its resolution goes on, or of a message that came first, which has read what was resolved.
        """
        return self._runs.spawn(self._bring_admitted(message))

    async def _bring_admitted(self, message: Begin) -> bool:
        while True:
            room = self._runs.free > 0
            self._runs.expected += room
            try:
                place = await self._begin(message, None, room)
            except InDoubt as error:
                log.info("run %s is not begun: %s is in doubt", message.run, error.effect)
                return False
            except (Locked, StoreUnavailable) as error:
                if self._runs.gone.is_set():
                    raise
                log.info("run %s begins later: %s", message.run, error)
                await asyncio.sleep(POLL_S)
                continue
            if not place.seated and await self._in_line(place):  # brought before, by this pod or another
                await asyncio.sleep(POLL_S)
                continue
            if place.owned is not None:  # it counts all the same
                self._services.allowance.work(message.session.tenant, message.session.id, place.run, again=True)
            self._work_on(message, place)
            return True

    async def _in_line(self, place: Place) -> bool:
        stored = await self._services.conversations.run(place.session, place.run)
        return stored is not None and stored.status == "waiting"

    async def go_on(self, message: Begin, run: str) -> None:
        """Work on a message that somebody else had brought here first, in the line or at work, and left as this run."""
        await self._bring(replace(message, run=run, by_key=True, token=new_id()))

    async def _bring(self, message: Begin) -> None:
        self._work_on(message, await self.enter(message))

    def _work_on(self, message: Begin, place: Place) -> None:
        if place.owned is None:
            return
        if place.owned.record is None:
            place.request, place.inputs = Request.decode(message.request), orjson.loads(message.input)
        self.run_in_background(place)

    async def _interrupt(self, session: SessionKeys, run: str, mode: str) -> None:
        """Ask the owner of the live run to end it: what it has said and done so far stays, unless it can go."""
        conversations = self._services.conversations
        stored = await conversations.run(session, run)
        if stored is not None:
            identifier = response.response_id(session.id, run)
            ended = response.body(Request.decode(stored.request), identifier, "cancelled")
            await conversations.cancel(session, run, orjson.dumps(ended), mode)

    def _count(self, outcome: str) -> None:
        self._services.telemetry.begins.labels(outcome).inc()


def _run_of(outcome: Owned | Waiting) -> str:
    """The run that a begin is about."""
    return outcome.run.id if isinstance(outcome, Owned) else outcome.run


async def _head(greeting: Greeting | None) -> Head | None:
    """What is known of the user; None where that could not be read, and the turn asks again if it needs it."""
    if greeting is None:
        return None
    try:
        return await greeting.head()
    except StoreUnavailable as error:
        log.info("a user could not be greeted: %s", error)
        return None
