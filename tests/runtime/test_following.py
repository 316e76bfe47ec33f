"""Following a run: whoever joined one gets its end, whatever becomes of those who were there first."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from agentrt.agent import Agent
from agentrt.http import answers
from agentrt.http.surface import Surface
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.runtime.admission import Place
from agentrt.runtime.log import Frame, Listener
from agentrt.runtime.refusals import Locked
from agentrt.store.keys import SessionKeys, new_id
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

ECHO = Agent("e", model="scripted:echo")
SLOW = Agent("slow", model="test:slow")


def slow(request: ModelRequest) -> Iterable[ModelEvent | float]:
    yield 2.0
    yield TextDelta("x")


async def abandoned(runtime: Runtime) -> Place:
    """A place that was joined with one who waits in line and gives up before its turn comes."""
    first = runtime.begin("slow", "slow")
    runtime.admission.run_in_background(await runtime.enter(first))
    second = runtime.begin("e", "two", session=first.session, by_key=True)
    waiter = asyncio.create_task(runtime.enter(second))
    while not (await runtime.services.events.read(second.session, second.run, -1))[0]:
        await asyncio.sleep(0.01)
    place = await runtime.enter(replace(second, token=new_id()))
    assert place.owned is None
    with pytest.raises(Locked):
        await waiter
    return place


async def test_the_result_of_an_abandoned_place(redis_url: str) -> None:
    async with running(redis_url, [ECHO, SLOW], {"slow": slow}, wait_ms=1000) as runtime:
        place = await abandoned(runtime)
        state = await asyncio.wait_for(runtime.following.result(place), 15)
        assert state is not None
        assert state.status == "completed"


async def test_the_events_of_an_abandoned_place(redis_url: str) -> None:
    async with running(redis_url, [ECHO, SLOW], {"slow": slow}, wait_ms=1000) as runtime:
        place = await abandoned(runtime)
        async with asyncio.timeout(15):
            kinds = [kind async for batch in answers.live(runtime.surface, place) for _, kind, _ in batch]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


class Stopping:
    """A pod whose run stops here after two events, while the client is still busy with the first."""

    def run_in_background(self, place: Place, listen: Listener) -> asyncio.Task[None]:
        async def work() -> None:
            listen((0, "response.created", b"{}"))
            await asyncio.sleep(0)
            listen((1, "response.output_text.delta", b"{}"))

        return asyncio.get_running_loop().create_task(work())

    async def frames(self, place: Place, last: int) -> AsyncGenerator[list[Frame], None]:
        yield [(last + 1, "response.completed", b"{}")]


async def test_a_run_that_stops_while_its_client_reads_slowly() -> None:
    """Nothing is missed when the last events and the end of the task come in one go."""
    place = Place(SessionKeys("dev", new_id()), new_id(), cast(Any, SimpleNamespace(record=None)))
    events = answers.live(cast(Surface, SimpleNamespace(admission=Stopping(), following=Stopping())), place)
    assert inspect.isasyncgen(events)
    numbers = []
    async with asyncio.timeout(5):
        async for batch in events:
            numbers += [number for number, _, _ in batch]
            await asyncio.sleep(0.05)
    assert numbers == [0, 1, 2]


async def test_a_log_that_has_expired(redis_url: str, redis_server: RedisServer) -> None:
    """The run's record outlives its event log: then the events follow from the result."""
    async with running(redis_url, [ECHO]) as runtime:
        want = runtime.begin("e", "hi", by_key=True)
        await runtime.admission.run(await runtime.enter(want), lambda _: None)
        with redis_server.client() as client:
            assert client.delete(want.session.run(want.run).events) == 1
        place = Place(want.session, want.run)
        frames = [frame async for batch in runtime.following.frames(place) for _, _, frame in batch]
        assert orjson.loads(frames[-1])["response"]["output"][0]["content"][0]["text"] == "echo: hi"


async def test_a_half_open_subscription(redis_server: RedisServer) -> None:
    """A connection that swallows everything is noticed by its silence, and all who wait look for themselves."""
    async with (
        ByteProxy(redis_server.port) as proxy,
        running(proxy.url, [ECHO]) as runtime,
    ):
        while not await runtime.services.notices.listening("pod"):
            await asyncio.sleep(0.01)
        notice = runtime.services.notices.subscribe("run")
        proxy.blackhole = True
        await asyncio.wait_for(notice.wait(), 10)


async def test_out_of_memory() -> None:
    """Following, leasing and watching get through when Redis refuses new data."""
    with RedisServer() as server:
        async with running(server.url, [SLOW], {"slow": slow}) as runtime:
            want = runtime.begin("slow", "x", by_key=True)
            runtime.admission.run_in_background(await runtime.enter(want))
            with server.client() as client:
                client.config_set("maxmemory", "1")
                state, _ = await runtime.services.events.read(want.session, want.run, -1)
                assert state is not None
                await runtime.services.leases.entering(b"dev/x/y/z")
                assert await runtime.services.leases.left_ms(b"dev/x/y/q") > 0
                client.config_set("maxmemory", "0")
