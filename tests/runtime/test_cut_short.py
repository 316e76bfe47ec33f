"""Runs that lost their pod in a later step, and were then cancelled or held up; and calls that lost their lock late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect
from agentrt.errors import StoreUnavailable
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.calls import Call
from agentrt.runtime.effects import Effects
from agentrt.runtime.resolution import continuation
from agentrt.store.begin import Begin
from agentrt.store.keys import LockKeys
from agentrt.store.locks import Held
from agentrt.tasks import end
from agentrt.tools.function import FunctionTool, tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running
from tests.runtime.test_claims import run_out


def one_after_the_other(*names: str) -> Any:
    """A model that calls these tools, one a step, and then says so."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        done = sum(item.type == "mcp_call" for item in request.items)
        yield ToolCall(f"c{done}", names[done], "{}") if done < len(names) else TextDelta("done")

    return answer


def pod(redis_url: str, name: str, tools: list[FunctionTool], **more: Any) -> AbstractAsyncContextManager[Runtime]:
    agent = Agent("a", model="test:m", tools=tools)
    answer = one_after_the_other(*(one.name for one in tools))
    return running(redis_url, [agent], {"m": answer}, pod=name, lease_ms=1000, lock_ttl_ms=1500, **more)


async def hung(runtime: Runtime, at: asyncio.Event) -> Begin:
    """A run whose pod died where it hung."""
    want = runtime.begin("a", "go")
    dying = runtime.admission.run_in_background(await runtime.enter(want))
    await at.wait()
    runtime.surface.worker.stop()
    await end(dying)
    return want


def hang(at: asyncio.Event) -> Any:
    async def forever(*_: Any) -> None:
        at.set()
        await asyncio.sleep(60)

    return forever


async def ended(runtime: Runtime, want: Begin) -> dict[str, Any]:
    """The response of a run, once the runtime has found and ended it."""
    while True:
        stored = await runtime.services.conversations.run(want.session, want.run)
        assert stored is not None
        if stored.result:
            return dict(orjson.loads(stored.result))
        await asyncio.sleep(0.02)


@tool(effect=Effect.READ_ONLY)
async def look() -> str:
    """Look."""
    return "seen"


@pytest.mark.parametrize("mode", ["1", "rollback"])
@pytest.mark.parametrize("under_way", [True, False], ids=["under way", "recorded"])
async def test_a_cancelled_run_tells_of_all_its_effects(
    redis_server: RedisServer, redis_url: str, mode: str, under_way: bool
) -> None:
    """It paid in its second step, or was about to; then somebody cancelled it, and another pod went on with it."""
    at = asyncio.Event()

    @tool
    async def pay() -> str:
        """Pay."""
        if under_way:
            await hang(at)()
        return "paid"

    async with pod(redis_url, "one", [look, pay]) as one:
        if not under_way:
            one.services.sessions.commit = hang(at)  # type: ignore[method-assign]
        want = await hung(one, at)
        await one.services.conversations.cancel(want.session, want.run, b"{}", mode)
        with redis_server.client() as outside:
            run_out(outside)
        async with pod(redis_url, "two", [look, pay]) as two:
            final = await ended(two, want)
            doubts = await two.services.doubts.listed()
            lines = await two.services.sessions.history(want.session, 10)
    assert final["status"] == "cancelled"
    assert "agentrt_rolled_back" not in final["metadata"]
    told = [item["output"] for item in final["output"] if item["type"] == "mcp_call"]
    assert told[0] == "seen"
    assert told[1] == "paid" if not under_way else "unknown" in told[1]
    assert len(doubts) == under_way
    assert sum(b"mcp_call" in line for line in lines) == 2


async def test_what_nobody_had_begun_is_not_begun_for_a_cancelled_run(
    redis_server: RedisServer, redis_url: str
) -> None:
    """Planned, and its pod died before its intent: somebody cancelled meanwhile."""
    at, paid = asyncio.Event(), []

    @tool(lock="till")
    async def pay() -> str:
        """Pay."""
        paid.append(1)
        return "paid"

    async with pod(redis_url, "one", [look, pay]) as one:
        one.services.locks.acquire = hang(at)  # type: ignore[method-assign]
        want = await hung(one, at)
        await one.services.conversations.cancel(want.session, want.run, b"{}")
        with redis_server.client() as outside:
            run_out(outside)
        async with pod(redis_url, "two", [look, pay]) as two:
            final = await ended(two, want)
    assert (final["status"], final["output"][1]["output"]) == ("cancelled", "The call was not made.")
    assert not paid


async def test_a_doubt_that_blocks_ends_the_run_of_a_dead_pod(redis_server: RedisServer, redis_url: str) -> None:
    """Recorded, and its pod died before the end: nothing more is done in it, and whoever resolves it lets it go on."""
    at, shipped = asyncio.Event(), []

    @tool(in_doubt="block")
    async def pay() -> str:
        """Pay."""
        raise ConnectionResetError("no answer")

    @tool
    async def ship() -> str:
        """Ship."""
        shipped.append(1)
        return "shipped"

    async with pod(redis_url, "one", [pay, ship]) as one:
        one.services.sessions.commit = hang(at)  # type: ignore[method-assign]
        want = await hung(one, at)
        with redis_server.client() as outside:
            run_out(outside)
        async with pod(redis_url, "two", [pay, ship]) as two:
            final = await ended(two, want)
            (doubted,) = await two.services.doubts.listed()
    assert (final["status"], final["metadata"]) == ("incomplete", {"agentrt_incomplete": "effect_in_doubt"})
    assert not shipped
    assert continuation(doubted) is not None


async def test_a_lock_that_is_lost_when_nothing_leaves_any_more(redis_server: RedisServer, redis_url: str) -> None:
    """The call was not answered, and what became of it shows when its intent has run out: that is waited for, and there
    is an outcome."""
    asked, tried = asyncio.Event(), []

    @tool(lock="till")
    async def pay() -> str:
        """Pay."""
        tried.append(1)
        raise ConnectionResetError("no answer")

    @pay.reconcile(conclusive=True)
    async def _() -> str | None:
        asked.set()
        return None

    async with pod(redis_url, "one", [pay]) as one:
        turn = asyncio.create_task(one.turn("a", "go"))
        await asked.wait()
        with redis_server.client() as outside:
            outside.delete(LockKeys("dev", "till").hash)
        (held,) = one.services.locks._held
        await held.lost.wait()
        _, finished = await turn
    assert len(tried) == 1, "the model was not told, and called again"
    call = orjson.loads(finished.result)["output"][0]
    assert (call["type"], call["output"]) == ("mcp_call", "The tool failed with ConnectionResetError.")


async def test_a_lock_that_is_lost_in_the_moment_in_which_its_call_ends(redis_url: str) -> None:
    """The call is being stopped already when it turns out that it was not answered: then nobody knows."""

    @tool(lock="till")
    async def pay() -> str:
        """Pay."""
        (held,) = one.services.locks._held
        held._lose("taken")
        raise ConnectionResetError("no answer")

    @pay.reconcile(conclusive=True)
    async def _() -> str | None:
        await asyncio.sleep(0)
        return None

    async with pod(redis_url, "one", [pay]) as one:
        _, finished = await one.turn("a", "go")
        assert len(await one.services.doubts.listed()) == 1
    call = orjson.loads(finished.result)["output"][0]
    assert (call["type"], call["status"]) == ("mcp_call", "failed")
    assert "because its lock was lost. The outcome of this call is unknown" in call["output"]


async def test_what_is_stopped_while_another_call_ends_is_not_forgotten(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent ran out in the moment in which the step's other call came back: the run stops, and whoever goes on with
    it finds out what became of the call; nobody ends it without an outcome."""
    steps: list[Effects] = []
    settle = Effects.settle

    def settling(effects: Effects, calls: Sequence[Call]) -> AsyncGenerator[list[Call], None]:
        steps.append(effects)
        return settle(effects, calls)

    monkeypatch.setattr(Effects, "settle", settling)

    @tool
    async def pay() -> str:
        """Pay."""
        started.set()
        await asyncio.sleep(60)
        return "paid"

    @tool(effect=Effect.IDEMPOTENT)
    async def note() -> str:
        """Note."""
        await started.wait()
        asyncio.get_running_loop().call_soon(steps[0].stop, StoreUnavailable("the intent could not be renewed"))
        return "noted"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        if any(item.type == "mcp_call" for item in request.items):
            yield TextDelta("done")
            return
        yield ToolCall("a", "note", "{}")
        yield ToolCall("b", "pay", "{}")

    started = asyncio.Event()
    agent = Agent("a", model="test:m", tools=[note, pay])
    async with running(redis_url, [agent], {"m": answer}, lease_ms=1000, lock_ttl_ms=1500) as one:
        want = one.begin("a", "go")
        with pytest.raises(StoreUnavailable, match="renewed"):
            await one.admission.run(await one.enter(want))
        with redis_server.client() as outside:
            run_out(outside)
        final = await ended(one, want)
    assert [item["output"][:21] for item in final["output"][:2]] == ["noted", "The outcome of this c"]


async def test_every_try_for_a_lock_has_a_token_of_its_own(redis_url: str) -> None:
    """What gives back a try whose answer was lost may come late: it must not find the next one."""
    tokens: list[str] = []

    @tool(lock="till")
    async def pay() -> str:
        """Pay."""
        return "paid"

    async with pod(redis_url, "one", [pay]) as one:
        acquire = one.services.locks.acquire

        async def lost_once(tenant: str, name: str, token: str, wait_s: float) -> Held:
            tokens.append(token)
            if len(tokens) == 1:
                raise StoreUnavailable("no answer")
            return await acquire(tenant, name, token, wait_s)

        one.services.locks.acquire = lost_once  # type: ignore[assignment]
        _, finished = await one.turn("a", "go")
    assert orjson.loads(finished.result)["output"][0]["output"] == "paid"
    assert len(set(tokens)) == len(tokens) == 2
