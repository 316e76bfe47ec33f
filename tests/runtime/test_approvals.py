"""Calls that somebody must approve: asked in one response, answered by the input of the next, on any pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.records import Request
from agentrt.runtime.turn import TurnEnd
from agentrt.store.begin import Begin
from agentrt.store.journal import effect_key
from agentrt.store.keys import QueueKeys
from agentrt.tasks import end
from agentrt.tools.function import FunctionTool, tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

Body = Callable[[TurnEnd], dict[str, Any]]


def script(request: ModelRequest) -> Iterable[ModelEvent]:
    """Calls `pay` and `look` in one step, then says what came of them."""
    calls = [item for item in request.items if item.type == "mcp_call"]
    if any(item.data["name"] == "pay" for item in calls):
        yield TextDelta(" | ".join(str(item.data["output"]) for item in calls))
    elif calls or request.items[len(request.items) - 1].data.get("content", [{}])[0].get("text") != "go":
        yield TextDelta("nothing was paid")
    else:
        yield ToolCall("1", "pay", '{"cents": 5}')
        yield ToolCall("2", "look", "{}")


class Till:
    """Where payments go."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def tools(self) -> list[FunctionTool]:
        @tool(approval=True)
        async def pay(ctx: ToolContext, cents: int) -> str:
            """Pay."""
            self.keys.append(ctx.idempotency_key)
            return f"paid {cents}"

        @tool(effect=Effect.READ_ONLY)
        async def look() -> str:
            """Look."""
            return "seen"

        return [pay, look]


def answering(runtime: Runtime, want: Begin, *items: dict[str, Any], **changes: Any) -> Begin:
    return runtime.begin("a", "", session=want.session, input=orjson.dumps(items), **changes)


async def finish(runtime: Runtime, want: Begin) -> TurnEnd:
    end = await runtime.admission.run(await runtime.enter(want))
    assert end is not None
    return end


async def ask(runtime: Runtime, body: Body) -> tuple[Begin, dict[str, Any]]:
    want, end = await runtime.turn("a", "go")
    final = body(end)
    assert final["status"] == "completed"
    assert [item["type"] for item in final["output"]] == ["mcp_approval_request", "mcp_call"]
    request = final["output"][0]
    assert (request["name"], request["arguments"]) == ("pay", '{"cents": 5}')
    return want, request


async def test_approved(redis_url: str, body: Body) -> None:
    """On another pod, under the key of the run that planned it; approving it again does nothing."""
    till = Till()
    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with (
        running(redis_url, agents, {"m": script}, pod="pod-a") as a,
        running(redis_url, agents, {"m": script}, pod="pod-b") as b,
    ):
        want, request = await ask(a, body)
        assert till.keys == []
        approval = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        final = body(await finish(b, answering(b, want, approval)))
        assert till.keys == [effect_key(want.session, want.run, 0, 0)]
        call, message = final["output"]
        assert (call["output"], call["approval_request_id"]) == ("paid 5", request["id"])
        assert message["content"][0]["text"] == "seen | paid 5"
        await finish(a, answering(a, want, approval))
        assert len(till.keys) == 1


async def test_two_approvals_at_once(redis_url: str, body: Body) -> None:
    """Under keys of their own, from two clients: one effect."""
    till = Till()
    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with running(redis_url, agents, {"m": script}) as runtime:
        want, request = await ask(runtime, body)
        approval = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        both = [answering(runtime, want, approval, fingerprint=f"client {n}", by_key=True) for n in range(2)]
        first = await runtime.enter(both[0])
        assert (await runtime.admission.run(first)) is not None
        assert (await finish(runtime, both[1])).status == "completed"
        assert len(till.keys) == 1


async def test_denied(redis_url: str, body: Body) -> None:
    till = Till()
    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with running(redis_url, agents, {"m": script}) as runtime:
        want, request = await ask(runtime, body)
        denial = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": False}
        final = body(await finish(runtime, answering(runtime, want, {**denial, "reason": "too much"})))
        assert final["output"][0]["output"] == "The call was not approved. too much"
        assert till.keys == []


@pytest.mark.parametrize("why", ["denied", "chat", "surplus"])
async def test_what_was_decided_holds_for_whoever_goes_on(
    redis_server: RedisServer, redis_url: str, body: Body, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """The pod dies behind the plan, before the outcome is recorded: the call is not made by the next one either."""
    till, reached = Till(), asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with (
        running(redis_url, agents, {"m": script}, pod="pod-a") as a,
        running(redis_url, agents, {"m": script}, pod="pod-b") as b,
    ):
        if why == "denied":
            want, request = await ask(a, body)
            denial = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": False}
            begin = answering(a, want, denial)
        else:
            options = {"max_tool_calls": 0} if why == "surplus" else {}
            begin = a.begin("a", "go", request=Request("a", 0, options, chat=why == "chat").encode())
        monkeypatch.setattr(a.services.journal, "record", hang)
        place = await a.enter(begin)
        task = asyncio.create_task(a.admission.run(place))
        async with asyncio.timeout(10):
            await reached.wait()
        await end(task)
        with redis_server.client() as client:
            for member in client.zrange(QueueKeys().leases, 0, -1):
                client.zadd(QueueKeys().leases, {member: 1})
        following = await b.enter(begin)
        state = await b.following.result(following)
    assert state is not None and state.status == "completed"
    assert till.keys == []


async def test_anything_else_is_a_denial(redis_url: str, body: Body) -> None:
    """The history stays valid: the call has an output, and an approval that comes later finds nothing to approve."""
    till = Till()
    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with running(redis_url, agents, {"m": script}) as runtime:
        want, request = await ask(runtime, body)
        _, end = await runtime.turn("a", "never mind", session=want.session)
        assert body(end)["output"][0]["output"] == "The call was not approved."
        approval = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        await finish(runtime, answering(runtime, want, approval))
        assert till.keys == []


async def test_a_call_that_cannot_be_run_is_not_asked_for(redis_url: str, body: Body) -> None:
    """Nobody approves arguments that the tool would refuse."""
    till = Till()

    def wrong(request: ModelRequest) -> Iterable[ModelEvent]:
        if any(item.type == "mcp_call" for item in request.items):
            yield TextDelta("done")
        else:
            yield ToolCall("1", "pay", '{"cents": "many"}')

    agents = [Agent("a", model="test:m", tools=till.tools())]
    async with running(redis_url, agents, {"m": wrong}) as runtime:
        _, end = await runtime.turn("a", "go")
        assert [item["type"] for item in body(end)["output"]] == ["mcp_call", "message"]
