"""What a pod's worker makes of the queue's entries: go on, finish, drop, or leave them to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py
from prometheus_client import generate_latest

from agentrt.agent import Agent
from agentrt.errors import StoreUnavailable
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.runtime.claims import Claims
from agentrt.store.begin import Waiting
from agentrt.store.keys import QueueKeys, SessionKeys, lease_member, new_id
from agentrt.store.queue import Urgency
from agentrt.tasks import end
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

ECHO = Agent("e", model="scripted:echo")
HANGING = Agent("h", model="test:hang")
KEYS = QueueKeys()


class Hang:
    """A model that hangs on its first question and answers the next."""

    def __init__(self) -> None:
        self.asked = 0
        self.hanging = asyncio.Event()

    def answer(self, request: ModelRequest) -> Iterable[ModelEvent | float]:
        self.asked += 1
        if self.asked == 1:
            self.hanging.set()
            yield 60.0
        yield TextDelta("done")


@pytest.fixture
async def outside(redis_server: RedisServer, redis_url: str) -> AsyncIterator[redis_py.Redis]:
    with redis_server.client() as client:
        yield client


async def left(runtime: Runtime, model: Hang, outside: redis_py.Redis) -> Any:
    """A run whose pod died while it worked on it, and whose lease has run out."""
    want = runtime.begin("h", "go")
    dying = runtime.admission.run_in_background(await runtime.enter(want))
    await model.hanging.wait()
    await end(dying)
    run_out(outside)
    return want


def run_out(outside: redis_py.Redis) -> None:
    for member in outside.zrange(KEYS.leases, 0, -1):
        outside.zadd(KEYS.leases, {member: 1})


def field(outside: redis_py.Redis, want: Any, name: str) -> str:
    return (outside.hget(want.session.run(want.run).hash, name) or b"").decode()


def counted(runtime: Runtime, outcome: str) -> float:
    text = generate_latest(runtime.surface.telemetry.registry).decode()
    lines = [line for line in text.splitlines() if line.startswith(f'agentrt_claims_total{{outcome="{outcome}"}}')]
    return float(lines[0].split()[-1]) if lines else 0.0


async def until(condition: Any, bound_s: float = 5.0) -> None:
    async with asyncio.timeout(bound_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_an_agent_that_this_pod_does_not_know(redis_url: str, outside: redis_py.Redis) -> None:
    """It is put back as often as need be, which counts for nothing; a pod that knows the agent ends it."""
    model = Hang()
    async with running(redis_url, [ECHO], pod="old", lease_ms=300) as old:
        async with running(redis_url, [HANGING], {"hang": model.answer}, pod="dying", lease_ms=300) as dying:
            dying.surface.worker.stop()
            want = await left(dying, model, outside)
            await until(lambda: int(field(outside, want, "attempt")) >= 5, 10)
        assert counted(old, "given_up") == 0
        async with running(redis_url, [HANGING], {"hang": model.answer}, pod="new", lease_ms=300):
            await until(lambda: field(outside, want, "status") == "completed", 10)
    assert int(field(outside, want, "attempt")) - int(field(outside, want, "spared")) == 2


async def test_a_session_of_a_newer_schema(redis_url: str, outside: redis_py.Redis) -> None:
    """Left alone, not misread, not counted; the entry comes back."""
    model = Hang()
    async with running(redis_url, [HANGING], {"hang": model.answer}, lease_ms=300) as runtime:
        runtime.surface.worker.stop()
        want = await left(runtime, model, outside)
        outside.hset(want.session.hash, "v", "99")
        async with running(redis_url, [HANGING], {"hang": model.answer}, pod="other", lease_ms=300) as other:
            await until(lambda: counted(other, "put_back") >= 2, 10)
            assert field(outside, want, "attempt") == "1"
            outside.hset(want.session.hash, "v", "1")
            await until(lambda: field(outside, want, "status") == "completed", 10)
    assert field(outside, want, "attempt") == "2"


class Away:
    """A lease on its way to a server that is away."""

    def __await__(self) -> Any:
        raise StoreUnavailable("the master of the queue's slot is away")
        yield

    def abandon(self) -> None:
        """Nobody waits for it."""


async def test_a_claim_without_its_lease(redis_url: str, outside: redis_py.Redis) -> None:
    """On a Cluster the session's master may answer, and the queue's not: the run is found all the same."""
    model = Hang()
    async with running(redis_url, [HANGING], {"hang": model.answer}, lease_ms=300) as dying:
        dying.surface.worker.stop()
        want = await left(dying, model, outside)
        async with running(redis_url, [HANGING], {"hang": model.answer}, pod="two", lease_ms=300) as two:
            leases = two.services.leases
            enter, away = leases.entering, [Away()]
            leases.entering = lambda member: away.pop() if away else enter(member)  # type: ignore[method-assign,assignment,return-value]
            await until(lambda: field(outside, want, "status") == "completed", 20)
    assert int(field(outside, want, "attempt")) == 3


async def test_entries_with_nothing_to_go_on_with(redis_url: str, outside: redis_py.Redis) -> None:
    """A run that has ended, a session that is gone, somebody else's run, and what is no entry at all: dropped."""
    async with running(redis_url, [ECHO]) as runtime:
        want, _ = await runtime.turn("e", "hello")
        gone = lease_member(SessionKeys("dev", new_id()), new_id(), new_id())
        for member in (lease_member(want.session, want.run, want.token), gone, b"no entry", b"dev/x/y/z"):
            await runtime.services.queue.enqueue(member, Urgency.RECOVERED)
        await until(lambda: outside.zcard(KEYS.ready) == outside.zcard(KEYS.leases) == 0)
        assert counted(runtime, "gone") == 2
        assert field(outside, want, "attempt") == "1"


async def test_a_full_pod_leaves_what_it_finds_to_others(redis_url: str, outside: redis_py.Redis) -> None:
    """A follower finds the owner dead, but there is no slot: it queues the run instead of taking one too many."""
    model = Hang()
    agents = {"hang": model.answer}
    async with running(redis_url, [HANGING, ECHO], agents, pod="full", max_runs=1) as full:
        full.surface.worker.stop()
        want = await left(full, model, outside)
        full.surface.runs.expected += 1
        place = await full.surface.admission.enter(full.begin("h", "go", session=want.session))
        assert place.owned is None
        following = asyncio.create_task(full.following.result(place))
        await until(lambda: outside.zcard(KEYS.ready) == 1)
        async with running(redis_url, [HANGING], agents, pod="free"):
            state = await asyncio.wait_for(following, 5)
        full.surface.runs.expected -= 1
    assert state is not None and state.status == "completed"
    assert field(outside, want, "pod") == "free"


async def test_a_message_that_came_back_and_whose_pod_died_at_once(redis_url: str, outside: redis_py.Redis) -> None:
    """Without a key it has its place in the line under the id it had first, and its pod learns that from the reply to
    begin. If that is never read, all that is left is a lease under the second id: the run is found all the same."""
    async with running(redis_url, [ECHO], pod="dying") as dying:
        sessions, leases = dying.services.sessions, dying.services.leases
        first = dying.begin("e", "first")
        live = await dying.enter(first)
        message = dying.begin("e", "second", session=first.session)
        assert isinstance(await sessions.begin(message), Waiting)
        assert not await sessions.leave(message.session, message.run, message.token, 60_000)
        await dying.admission.run(live)
        again = replace(message, run=new_id(), token=new_id())
        await leases.entering(lease_member(again.session, again.run, again.token))
        began = await sessions.begin(again)
        assert isinstance(began, Waiting) and began.live.run == message.run
        dying.surface.worker.stop()
        run_out(outside)
        async with running(redis_url, [ECHO], pod="other", lease_ms=300):
            await until(lambda: field(outside, message, "status") == "completed", 10)
            await until(lambda: outside.zcard(KEYS.ready) == outside.zcard(KEYS.leases) == 0, 10)


async def test_a_cancel_that_nobody_heard(redis_url: str, outside: redis_py.Redis) -> None:
    """Asked for while the run waited for a pod: whoever takes it ends it."""
    model = Hang()
    async with running(redis_url, [HANGING], {"hang": model.answer}) as runtime:
        runtime.surface.worker.stop()
        want = await left(runtime, model, outside)
        assert await runtime.services.conversations.cancel(want.session, want.run, b"{}") == "asked"
        async with running(redis_url, [HANGING], {"hang": model.answer}, pod="other"):
            await until(lambda: field(outside, want, "status") == "cancelled")


async def test_many_who_look_at_once_after_a_silent_pod(redis_url: str) -> None:
    """A hundred followers of one dead pod, whose looks overlap: it is noticed, as by one of them alone."""
    async with running(redis_url, [ECHO]) as runtime:
        claims = Claims(runtime.services, runtime.surface.runs)
        noticed = asyncio.Event()

        async def follower() -> None:
            while not noticed.is_set():
                if await claims._vanished("dead"):
                    noticed.set()
                await asyncio.sleep(0.02)

        async with asyncio.timeout(15):
            await asyncio.gather(*(follower() for _ in range(100)))


@pytest.mark.timeout(60)
async def test_replies_lost_at_random(redis_server: RedisServer, redis_url: str, outside: redis_py.Redis) -> None:
    """Every 15th reply and its connection are lost, over begin, hand-over, queue and commit: runs = requests."""
    seen = 0

    def lossy(data: bytes) -> bytes | None:
        nonlocal seen
        seen += 1
        return None if seen % 15 == 0 else data

    async with ByteProxy(redis_server.port) as proxy, running(proxy.url, [ECHO], max_runs=2) as runtime:
        proxy.on_reply = lossy
        wants = [runtime.begin("e", f"number {number}") for number in range(60)]

        async def one(want: Any) -> None:
            place = await runtime.enter(want)
            if place.owned is not None:
                await runtime.admission.run(place)
            state = await runtime.following.result(place)
            assert state is not None and state.status == "completed"

        for start in range(0, 60, 6):
            await asyncio.gather(*(one(want) for want in wants[start : start + 6]))
        proxy.on_reply = lambda data: data
    assert seen > 150
    for want in wants:
        assert outside.lrange(want.session.runs, 0, -1) == [want.run.encode()]
        assert outside.hget(want.session.hash, "rev") == b"1"
        assert outside.llen(want.session.items) == 2
