"""The locks of running calls, whatever the turn itself waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace

import orjson
import pytest
import redis as redis_py

from agentrt.agent import Agent, Limits
from agentrt.errors import StoreUnavailable
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.admission import Place
from agentrt.runtime.clock import boottime_ms
from agentrt.runtime.effects import Effects
from agentrt.store.journal import Batch
from agentrt.tasks import end
from agentrt.tools.function import tool
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import running
from tests.store.stage import planned

LOCK_MS = 2000


async def test_a_call_ends_with_its_lock(redis_server: RedisServer) -> None:
    """Redis goes away when one of two calls is done: while its record waits, the other is stopped in time."""
    started = asyncio.Event()
    stopped: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    since = 0.0

    async with ByteProxy(redis_server.port) as proxy:

        @tool
        async def quick() -> str:
            """Return at once, and take Redis along."""
            nonlocal since
            await started.wait()
            since = boottime_ms()
            proxy.blackhole = True
            return "done"

        @tool
        async def slow() -> str:
            """Take for ever."""
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set_result(boottime_ms())
            return "never"

        def answer(request: ModelRequest) -> Iterable[ModelEvent]:
            if any(item.type == "mcp_call" for item in request.items):
                yield TextDelta("done")
            else:
                yield ToolCall("1", "quick", "{}")
                yield ToolCall("2", "slow", "{}")

        agent = Agent("a", model="test:m", tools=[quick, slow])
        async with running(proxy.url, [agent], {"m": answer}, lock_ttl_ms=LOCK_MS) as runtime:
            task = runtime.admission.run_in_background(await runtime.enter(runtime.begin("a", "go")))
            at = await asyncio.wait_for(stopped, 10)
            await end(task)
        assert at - since < LOCK_MS


async def test_a_call_ends_with_the_session(redis_server: RedisServer, redis_url: str) -> None:
    """Another pod owns the session: the call is stopped when this one hears of it, not when it next writes."""
    started, stopped = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Take for ever."""
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        yield ToolCall("1", "slow", "{}")

    async with running(redis_url, [Agent("a", model="test:m", tools=[slow])], {"m": answer}, lease_ms=600) as runtime:
        want = runtime.begin("a", "go")
        task = runtime.admission.run_in_background(await runtime.enter(want))
        await started.wait()
        with redis_server.client() as client:
            client.hset(want.session.hash, mapping={"owner": "another", "fence": 2**60})
            client.delete("agentrt:{q:0}:leases")
        await asyncio.wait_for(stopped.wait(), 5)
        assert await task is None


async def test_a_call_that_takes_longer_than_its_lock_and_lease(redis_url: str) -> None:
    """Both are renewed while it runs: whoever follows from another pod has no reason to take over."""
    calls = 0
    until_ms = boottime_ms() + 2500

    @tool
    async def slow() -> str:
        """Take longer than anything is held for."""
        nonlocal calls
        calls += 1
        while boottime_ms() < until_ms:
            await asyncio.sleep(0.05)
        return "done"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        done = [item for item in request.items if item.type == "mcp_call"]
        if done:
            yield TextDelta(str(done[0].data["output"]))
        else:
            yield ToolCall("1", "slow", "{}")

    agent = Agent("a", model="test:m", tools=[slow])
    times = {"lease_ms": 600, "lock_ttl_ms": 600}
    async with (
        running(redis_url, [agent], {"m": answer}, pod="pod-a", **times) as a,
        running(redis_url, [agent], {"m": answer}, pod="pod-b", **times) as b,
    ):
        want = a.begin("a", "go", by_key=True)
        task = a.admission.run_in_background(await a.enter(want))
        state = await b.following.result(Place(want.session, want.run))
        assert state is not None
        assert orjson.loads(state.result)["output"][-1]["content"][0]["text"] == "done"
        assert await task is not None, "the pod that began it ended it"
    assert calls == 1


async def test_a_step_that_has_failed_begins_nothing_more(redis_url: str) -> None:
    """What is not begun must not look as if it might have happened."""

    @tool
    async def act() -> str:
        """Act."""
        return "acted"

    agent = Agent("a", model="scripted:echo", tools=[act], limits=Limits(calls_in_parallel=1))
    async with running(redis_url, [agent]) as runtime:
        place = await runtime.enter(runtime.begin("a", "go"))
        owned, journal = place.owned, runtime.services.journal
        assert owned is not None
        plans = [replace(planned(owned, n), tool="act", effect="at_most_once") for n in range(2)]
        await journal.plan(owned, 0, b"{}", [(plans[0], True), (plans[1], False)], Batch())
        effects = Effects(runtime.services, agent, owned)
        calls = [effects.prepare(one, {"act": act}) for one in plans]
        effects.intended(calls[:1], boottime_ms())
        async with aclosing(effects.settle(calls)) as batches:
            assert await anext(batches) == calls[:1]
            effects.stop(StoreUnavailable("away"))
            with pytest.raises(StoreUnavailable, match="away"):
                await anext(batches)
        with redis_py.Redis.from_url(redis_url) as outside:
            assert f"{plans[1].key}@".encode() not in outside.hkeys(owned.run.effects)
        await runtime.admission.run(place)
