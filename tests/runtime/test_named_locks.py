"""Tools under a named lock: one call at a time over all sessions and pods, under the lock's own fence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.calls import IN_DOUBT_TEXT
from agentrt.runtime.turn import TurnEnd
from agentrt.store.keys import LockKeys
from agentrt.tools.function import FunctionTool, tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import running

Body = Callable[[TurnEnd], dict[str, Any]]


def calling(*orders: str) -> Callable[[ModelRequest], Iterable[ModelEvent]]:
    """Refunds these orders in one step, then says what came of it."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        done = [item.data for item in request.items if item.type == "mcp_call"]
        if done:
            yield TextDelta(" | ".join(str(call["output"]) for call in done))
        for number, order in enumerate(() if done else orders):
            yield ToolCall(f"c{number}", "refund", f'{{"order_id": "{order}"}}')

    return answer


class Orders:
    """Refunds, of which two must never be under way for one order."""

    def __init__(self) -> None:
        self.under_way: set[str] = set()
        self.fences: dict[str, list[int]] = {}
        self.met = False
        """Whether refunds of two orders were under way at once."""

    def tool(self, *, timeout: float = 30.0) -> FunctionTool:
        @tool(effect=Effect.IDEMPOTENT, lock="order:{order_id}", timeout=timeout)
        async def refund(ctx: ToolContext, order_id: str) -> str:
            """Refund an order."""
            assert order_id not in self.under_way, "two at once"
            self.under_way.add(order_id)
            self.met |= len(self.under_way) > 1
            await asyncio.sleep(0.01)
            self.under_way.discard(order_id)
            self.fences.setdefault(order_id, []).append(ctx.fencing_token)
            return "refunded"

        return refund


def text(final: dict[str, Any]) -> str:
    return str(final["output"][-1]["content"][0]["text"])


async def test_one_at_a_time(redis_url: str, body: Body) -> None:
    """Twenty sessions on two pods, two orders: never two at once on one, and every fence is higher than the last."""
    orders = Orders()
    agent = Agent("a", model="test:m", tools=[orders.tool()])
    async with (
        running(redis_url, [agent], {"m": calling("1", "2")}, pod="pod-a") as a,
        running(redis_url, [agent], {"m": calling("2", "1")}, pod="pod-b") as b,
    ):
        turns = [(a if number % 2 else b).turn("a", "go") for number in range(20)]
        ends = [body(end) for _, end in await asyncio.gather(*turns)]
    assert {text(final) for final in ends} == {"refunded | refunded"}
    for fences in orders.fences.values():
        assert len(fences) == 20
        assert fences == sorted(set(fences))
    assert orders.met, "different orders do not wait for each other"


async def test_calls_of_one_step_with_one_name(redis_url: str, body: Body) -> None:
    """One after the other, each released when it is recorded."""
    orders = Orders()
    agent = Agent("a", model="test:m", tools=[orders.tool()])
    async with running(redis_url, [agent], {"m": calling("1", "1", "1")}) as runtime:
        _, end = await runtime.turn("a", "go")
    assert text(body(end)) == "refunded | refunded | refunded"


async def test_a_lock_that_does_not_come(redis_url: str, body: Body) -> None:
    """The call is not made, and the model is told so."""
    orders = Orders()
    agent = Agent("a", model="test:m", tools=[orders.tool(timeout=0.2)])
    async with running(redis_url, [agent], {"m": calling("1")}) as runtime:
        async with runtime.services.locks.hold("dev", "order:1", "t" * 22, 5):
            _, end = await runtime.turn("a", "go")
        assert "the call was not made" in text(body(end))
        assert orders.fences == {}
        _, end = await runtime.turn("a", "go")
        assert text(body(end)) == "refunded"


async def test_a_lock_that_is_lost(redis_server: RedisServer, redis_url: str, body: Body) -> None:
    """The call is stopped; whether it took effect nobody knows."""
    started, stopped = asyncio.Event(), asyncio.Event()

    @tool(lock="order:{order_id}")
    async def refund(order_id: str) -> str:
        """Refund an order."""
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    agent = Agent("a", model="test:m", tools=[refund])
    async with running(redis_url, [agent], {"m": calling("1")}, lock_ttl_ms=900) as runtime:
        turn = asyncio.create_task(runtime.turn("a", "go"))
        await started.wait()
        with redis_server.client() as client:
            assert client.delete(LockKeys("dev", "order:1").hash) == 1
        await asyncio.wait_for(stopped.wait(), 5)
        _, end = await turn
    assert text(body(end)) == f"The tool was stopped because its lock was lost. {IN_DOUBT_TEXT}"
