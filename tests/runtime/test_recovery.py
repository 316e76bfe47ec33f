"""A pod dies in the middle of a run; another one that is asked for the same message goes on from the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.models.base import ModelEvent, ModelRequest, ReasoningDone, TextDelta, ToolCall
from agentrt.runtime.admission import Place
from agentrt.runtime.log import AHEAD_MAX, Frame
from agentrt.store.begin import Begin
from agentrt.store.keys import QueueKeys
from agentrt.tasks import end
from agentrt.tools.function import FunctionTool, tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

LOCK_MS = 300


class World:
    """Outside of Redis: what really happened, by idempotency key; the first call hangs where it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.happened: list[str] = []
        self.hang = asyncio.Event()
        self.hanging = asyncio.Event()
        self.before = False
        """Hang before the effect, not after it."""

    async def act(self, key: str) -> str:
        first = not self.calls
        self.calls.append(key)
        if first and self.before:
            self.hanging.set()
            await self.hang.wait()
        self.happened.append(key)
        if first and not self.before:
            self.hanging.set()
            await self.hang.wait()
        return "acted"


def acting(world: World, effect: Effect, conclusive: bool | None) -> FunctionTool:
    """A tool of that class; `conclusive`: None for no reconcile hook."""

    async def act(ctx: ToolContext) -> str:
        """Act on the world."""
        return await world.act(ctx.idempotency_key)

    made = tool(effect=effect, timeout=30)(act)
    if conclusive is not None:

        @made.reconcile(conclusive=conclusive)
        async def seen(ctx: ToolContext) -> str | None:
            return "seen" if ctx.idempotency_key in world.happened else None

    return made


def answer(request: ModelRequest) -> Iterable[ModelEvent]:
    """Asks for one call, then says what came of it."""
    done = [item for item in request.items if item.type == "mcp_call"]
    if done:
        yield TextDelta(str(done[0].data["output"]))
    else:
        yield ToolCall("call-1", "act", "{}")


@asynccontextmanager
async def two_pods(redis_url: str, agent: Agent, script: Any) -> AsyncIterator[tuple[Runtime, Runtime]]:
    async with (
        running(redis_url, [agent], {"m": script}, pod="pod-a", lock_ttl_ms=LOCK_MS) as a,
        running(redis_url, [agent], {"m": script}, pod="pod-b", lock_ttl_ms=LOCK_MS) as b,
    ):
        yield a, b


def run_out(server: RedisServer) -> None:
    """All leases ran out long ago."""
    with server.client() as client:
        for member in client.zrange(QueueKeys().leases, 0, -1):
            client.zadd(QueueKeys().leases, {member: 1})


async def take_over(b: Runtime, server: RedisServer, want: Any) -> dict[str, Any]:
    """The same message to pod b, after the owner's lease ran out: the final body."""
    run_out(server)
    place = await b.enter(want)
    assert place.owned is None, "the run was there already"
    state = await b.following.result(place)
    assert state is not None and state.result
    return dict(orjson.loads(state.result))


@pytest.mark.parametrize(
    ("effect", "conclusive", "before", "calls", "happened", "said"),
    [
        (Effect.READ_ONLY, None, True, 2, 1, "acted"),
        (Effect.IDEMPOTENT, None, True, 2, 1, "acted"),
        (Effect.IDEMPOTENT, None, False, 2, 2, "acted"),
        (Effect.AT_MOST_ONCE, None, True, 1, 0, "The outcome of this call is unknown"),
        (Effect.AT_MOST_ONCE, None, False, 1, 1, "The outcome of this call is unknown"),
        (Effect.AT_MOST_ONCE, False, True, 1, 0, "The outcome of this call is unknown"),
        (Effect.AT_MOST_ONCE, False, False, 1, 1, "seen"),
        (Effect.AT_MOST_ONCE, True, True, 2, 1, "acted"),
        (Effect.AT_MOST_ONCE, True, False, 1, 1, "seen"),
    ],
)
async def test_a_pod_dies_with_an_open_intent(
    redis_server: RedisServer,
    redis_url: str,
    effect: Effect,
    conclusive: bool | None,
    before: bool,
    calls: int,
    happened: int,
    said: str,
) -> None:
    """The crash table of docs/architecture.md, the rows in which an intent is open; every call bears the same key."""
    world = World()
    world.before = before
    agent = Agent("a", model="test:m", tools=[acting(world, effect, conclusive)])
    async with two_pods(redis_url, agent, answer) as (a, b):
        want = a.begin("a", "go", by_key=True)
        dying = a.admission.run_in_background(await a.enter(want))
        await world.hanging.wait()
        await end(dying)
        final = await take_over(b, redis_server, b.begin("a", "go", by_key=True, session=want.session, run=want.run))
    assert final["status"] == "completed"
    assert final["output"][-1]["content"][0]["text"].startswith(said)
    assert len(world.calls) == calls and len(set(world.calls)) == 1
    assert len(world.happened) == happened


async def test_a_recorded_call_is_replayed(redis_server: RedisServer, redis_url: str) -> None:
    """The pod dies after the record, while the model is asked again: the call is not run again."""
    world = World()
    world.hang.set()
    asked = 0
    reached = asyncio.Event()

    def script(request: ModelRequest) -> Iterable[ModelEvent | float]:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first pod's second step
            reached.set()
            yield 30.0
        yield from answer(request)

    agent = Agent("a", model="test:m", tools=[acting(world, Effect.AT_MOST_ONCE, None)])
    async with two_pods(redis_url, agent, script) as (a, b):
        want = a.begin("a", "go", by_key=True)
        dying = a.admission.run_in_background(await a.enter(want), lambda _: None)
        await reached.wait()
        await end(dying)
        final = await take_over(b, redis_server, b.begin("a", "go", by_key=True, session=want.session, run=want.run))
        told = await item_events(b, want)
    assert final["output"][-1]["content"][0]["text"] == "acted"
    assert [item["type"] for item in final["output"]] == ["mcp_call", "message"]
    assert len(world.calls) == 1
    assert len(told) == len(set(told)), "what the log has told is not told again"


async def item_events(runtime: Runtime, want: Begin) -> list[tuple[str, int]]:
    """Which items the run's log opened and closed, by output index."""
    told = []
    async for batch in runtime.following.frames(Place(want.session, want.run)):
        for _, kind, frame in batch:
            if kind in {"response.output_item.added", "response.output_item.done"}:
                told.append((kind, orjson.loads(frame)["output_index"]))
    return told


async def test_indexes_that_were_shown_are_not_used_again(redis_server: RedisServer, redis_url: str) -> None:
    """The pod dies behind a finished item that no plan knows: the next attempt numbers past it."""
    tries = 0
    reached = asyncio.Event()

    def script(request: ModelRequest) -> Iterable[ModelEvent | float]:
        nonlocal tries
        tries += 1
        if tries == 1:
            yield ReasoningDone({"type": "reasoning", "summary": []})
            reached.set()
            yield 30.0
        yield TextDelta("done")

    agent = Agent("a", model="test:m")
    async with two_pods(redis_url, agent, script) as (a, b):
        want = a.begin("a", "go", by_key=True)
        dying = a.admission.run_in_background(await a.enter(want), lambda _: None)
        await reached.wait()
        while not (await a.services.events.read(want.session, want.run, -1))[1]:
            await asyncio.sleep(0.01)
        await end(dying)
        await take_over(b, redis_server, b.begin("a", "go", by_key=True, session=want.session, run=want.run))
        told = await item_events(b, want)
    assert len(told) == len(set(told))


async def test_an_open_intent_of_a_tool_that_is_gone(redis_server: RedisServer, redis_url: str) -> None:
    """A pod that does not know the tool does not say that the call failed."""
    world = World()
    knowing = Agent("a", model="test:m", tools=[acting(world, Effect.AT_MOST_ONCE, None)])
    async with (
        running(redis_url, [knowing], {"m": answer}, pod="pod-a", lock_ttl_ms=LOCK_MS) as a,
        running(redis_url, [Agent("a", model="test:m")], {"m": answer}, pod="pod-b", lock_ttl_ms=LOCK_MS) as b,
    ):
        want = a.begin("a", "go", by_key=True)
        dying = a.admission.run_in_background(await a.enter(want))
        await world.hanging.wait()
        await end(dying)
        final = await take_over(b, redis_server, b.begin("a", "go", by_key=True, session=want.session, run=want.run))
    assert "unknown" in final["output"][0]["output"]
    assert len(world.happened) == 1


async def test_a_stream_goes_on_after_its_pod_died(redis_server: RedisServer, redis_url: str) -> None:
    """The half-written message is closed as incomplete, no number comes twice, the answer is whole and there once."""
    tries = 0
    halfway = asyncio.Event()

    def script(request: ModelRequest) -> Iterable[ModelEvent | float]:
        nonlocal tries
        tries += 1
        yield TextDelta("Hello ")
        if tries == 1:
            halfway.set()
            yield 30.0
        yield TextDelta("world")

    agent = Agent("a", model="test:m")
    async with two_pods(redis_url, agent, script) as (a, b):
        want = a.begin("a", "go", by_key=True)
        seen: list[Frame] = []
        dying = a.admission.run_in_background(await a.enter(want), seen.append)
        await halfway.wait()
        while not any(kind == "response.output_text.delta" for _, kind, _ in seen):
            await asyncio.sleep(0)
        await end(dying)
        run_out(redis_server)
        last = seen[-1][0]
        async for batch in b.following.frames(Place(want.session, want.run), last):
            seen += batch
    numbers = [number for number, _, _ in seen]
    assert numbers == sorted(set(numbers))
    assert any(number >= AHEAD_MAX for number in numbers), "a second attempt numbers past what the first may have sent"
    assert seen[-1][1] == "response.completed"
    items = [orjson.loads(raw)["item"] for _, kind, raw in seen if kind == "response.output_item.done"]
    assert [item["status"] for item in items] == ["incomplete", "completed"]
    final = orjson.loads(seen[-1][2])["response"]
    assert [item["content"][0]["text"] for item in final["output"]] == ["Hello world"]
    assert len({item["id"] for item in items}) == 2


async def test_a_silent_pod_is_displaced_before_its_lease_runs_out(redis_url: str) -> None:
    """A pod whose subscription is gone is taken for dead after a second, not after the lease."""
    halfway = asyncio.Event()
    tries = 0

    def script(request: ModelRequest) -> Iterable[ModelEvent | float]:
        nonlocal tries
        tries += 1
        if tries == 1:
            halfway.set()
            yield 60.0
        yield TextDelta("done")

    agent = Agent("a", model="test:m")
    async with running(redis_url, [agent], {"m": script}, pod="silent-b") as b:
        async with running(redis_url, [agent], {"m": script}, pod="silent-a") as a:
            want = a.begin("a", "go", by_key=True)
            dying = a.admission.run_in_background(await a.enter(want))
            await halfway.wait()
            await end(dying)  # killed, not leaving: nothing is handed over
        place = await b.enter(b.begin("a", "go", by_key=True, session=want.session, run=want.run))
        assert place == Place(place.session, want.run)
        async with asyncio.timeout(5):
            state = await b.following.result(place)
    assert state is not None and state.status == "completed"
