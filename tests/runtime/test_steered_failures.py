"""A steered run that fails, and what else may come between a message and its run: nothing of it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect, Limits
from agentrt.errors import ModelError, StoreUnavailable
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.admission import Place
from agentrt.runtime.allowance import QuotaExceeded
from agentrt.store.access import Quota
from agentrt.store.keys import new_id
from agentrt.store.sessions import Sessions
from agentrt.store.users import Greeting
from agentrt.tools.function import tool
from tests.runtime.conftest import Runtime, running
from tests.runtime.test_approvals import Till, answering, ask, finish, script
from tests.runtime.test_steer import ending, history, said, steered, texts


class Stage:
    """A model that calls `look`, then fails for as long as it is told to; the tool waits for the test."""

    def __init__(self) -> None:
        self.fail = True
        self.looking = asyncio.Event()
        self.go = asyncio.Event()
        self.replying = asyncio.Event()
        self.reply = asyncio.Event()

    def answer(self, request: ModelRequest) -> Iterable[ModelEvent | float]:
        if not any(item.type == "mcp_call" for item in request.items):
            yield ToolCall("c1", "look", "{}")
            return
        if self.fail:
            raise ModelError("away", retryable=True)
        self.replying.set()
        while not self.reply.is_set():
            yield 0.01
        yield TextDelta("heard " + "+".join(said(request)))

    def agent(self) -> Agent:
        @tool(effect=Effect.READ_ONLY)
        async def look() -> str:
            """Look, until the test has seen enough."""
            self.looking.set()
            await self.go.wait()
            return "seen"

        return Agent("a", model="test:m", tools=[look], limits=Limits(model_attempts=1, model_wait_s=0.0))


async def failed(runtime: Runtime, stage: Stage) -> Any:
    """A run that was steered and failed in a way that may pass."""
    first = runtime.begin("a", "act", by_key=True)
    runtime.admission.run_in_background(await runtime.enter(first))
    await stage.looking.wait()
    place = await steered(runtime, first, "and hurry")
    stage.go.set()
    assert (await ending(runtime, place))["status"] == "failed"
    stage.fail = False
    return first


async def test_what_was_steered_is_resumed_with_the_run(redis_url: str) -> None:
    """The same message again: both are answered, a third that comes meanwhile too, and all of it is in the history."""
    stage = Stage()
    async with running(redis_url, [stage.agent()], {"m": stage.answer}) as runtime:
        first = await failed(runtime, stage)
        resumed = asyncio.create_task(
            runtime.admission.run(await runtime.admission.enter(replace(first, token=new_id())))
        )
        await stage.replying.wait()
        place = await steered(runtime, first, "second thought")
        stage.reply.set()
        assert await resumed is not None
        assert texts(await ending(runtime, place)) == ["heard act+and hurry", "heard act+and hurry+second thought"]
        kept = await history(runtime, first)
        assert [item.get("role") for item in kept] == ["user", None, "user", "assistant", "user", "assistant"]


async def test_whoever_steered_may_resume_it(redis_url: str) -> None:
    """The sender of the steering message comes again: the run goes on under its own message."""
    stage = Stage()
    stage.reply.set()
    async with running(redis_url, [stage.agent()], {"m": stage.answer}) as runtime:
        first = await failed(runtime, stage)
        again = runtime.begin("a", "and hurry", session=first.session, policy="steer", retried=True)
        place = await runtime.enter(again)
        assert place.run == first.run
        end = await runtime.admission.run(place)
        assert end is not None
        assert texts(orjson.loads(end.result)) == ["heard act+and hurry"]


async def test_a_rollback_keeps_what_another_pod_began(redis_url: str) -> None:
    """A call whose owner was displaced, and of which the hook knows: it happened, so nothing is rolled back."""
    stage = Stage()

    @tool(effect=Effect.AT_MOST_ONCE)
    async def pay() -> str:
        """Pay."""
        stage.looking.set()
        await stage.go.wait()
        return "paid"

    @pay.reconcile(conclusive=True)
    async def _() -> str | None:
        return "paid indeed"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        yield (
            TextDelta("done") if any(item.type == "mcp_call" for item in request.items) else ToolCall("c", "pay", "{}")
        )

    agent = Agent("a", model="test:m", tools=[pay])
    async with (
        running(redis_url, [agent], {"m": answer}, pod="pod-a", lock_ttl_ms=1000) as a,
        running(redis_url, [agent], {"m": answer}, pod="pod-b", lock_ttl_ms=1000) as b,
    ):
        first = a.begin("a", "go")
        a.admission.run_in_background(await a.enter(first), lambda _: None)
        await stage.looking.wait()
        state, _ = await b.services.events.read(first.session, first.run, -1)
        assert state is not None
        assert state.live is not None
        await b.services.conversations.cancel(first.session, first.run, b"{}", "rollback")
        claimed = await b.services.sessions.claim(first.session, state.live, "token-of-b")
        b.admission.run_in_background(Place(first.session, first.run, claimed))  # type: ignore[arg-type]
        body = await ending(b, Place(first.session, first.run))
        assert body["status"] == "cancelled"
        assert [item["output"] for item in body["output"]] == ["paid indeed"]
        assert "agentrt_rolled_back" not in body["metadata"]
        stage.go.set()


async def test_an_approval_that_was_refused_is_not_used_up(redis_url: str) -> None:
    """429 to the approving message; sent again, the call is made."""
    till = Till()
    async with running(redis_url, [Agent("a", model="test:m", tools=till.tools())], {"m": script}) as runtime:
        want, request = await ask(runtime, lambda end: dict(orjson.loads(end.result)))
        allowance = runtime.services.allowance
        allowance._limits["dev"] = Quota(tokens_per_day=1)
        await allowance.quotas.entering("dev", "x/y", Quota(tokens_per_day=1))
        allowance.quotas.leave("dev", "x/y", tokens=5)
        approval = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        with pytest.raises(QuotaExceeded):
            await finish(runtime, answering(runtime, want, approval))
        allowance._limits.clear()
        allowance._refused.clear()
        await finish(runtime, answering(runtime, want, approval))
        assert len(till.keys) == 1


async def test_a_user_that_cannot_be_greeted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master that has the user is away: the session is begun all the same, and nobody is left with it."""

    async def away(self: Greeting) -> None:
        raise StoreUnavailable("away")

    async with running(redis_url, [Agent("a", model="test:m", memory=None)], {"m": lambda _: [TextDelta("ok")]}) as one:
        with monkeypatch.context() as patched:
            patched.setattr(Greeting, "head", away)
            _, end = await one.turn("a", "hello", user="u1")
        assert end.status == "completed"


async def test_whoever_leaves_the_line_keeps_the_place_and_no_session(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis fails once for a waiter: what is behind it does not wait for a lease that nobody has."""
    stage = Stage()
    stage.fail = False
    async with running(redis_url, [stage.agent()], {"m": stage.answer}) as runtime:
        first = runtime.begin("a", "act")
        runtime.admission.run_in_background(await runtime.enter(first), lambda _: None)
        await stage.looking.wait()
        begin, left = Sessions.begin, asyncio.Event()
        leave = Sessions.leave

        async def failing(self: Sessions, want: Any, *args: Any) -> Any:
            if want.fingerprint == "second" and left.is_set():
                raise StoreUnavailable("for a moment")
            outcome = await begin(self, want, *args)
            if want.fingerprint == "second":
                left.set()
            return outcome

        gone = asyncio.Event()

        async def leaving(self: Sessions, *args: Any) -> bool:
            granted = await leave(self, *args)
            gone.set()
            return granted

        monkeypatch.setattr(Sessions, "begin", failing)
        monkeypatch.setattr(Sessions, "leave", leaving)
        with pytest.raises(StoreUnavailable):
            await runtime.enter(runtime.begin("a", "second", session=first.session))
        await gone.wait()
        stage.go.set()
        stage.reply.set()
        await ending(runtime, Place(first.session, first.run))
        async with asyncio.timeout(5):
            _, end = await runtime.turn("a", "third", session=first.session)
        assert end.status == "completed"
