"""A message sent again: a failure that may pass is resumed, in an idle session and in a busy one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from agentrt.agent import Agent, Effect
from agentrt.errors import ModelError, StoreUnavailable
from agentrt.models.base import Finished, ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.records import Usage
from agentrt.runtime.admission import Place
from agentrt.runtime.turn import TurnEnd
from agentrt.store.begin import Begin, Ended, Fork
from agentrt.store.keys import new_id
from agentrt.tools.function import tool
from tests.runtime.conftest import Runtime, running
from tests.runtime.test_claims import Away

Body = Callable[[TurnEnd], dict[str, Any]]
ECHO = Agent("e", model="scripted:echo")


class Flaky:
    """A model that is overloaded until it is told otherwise; with a tool, it asks for one call first."""

    def __init__(self, *, acting: bool = False) -> None:
        self.down = True
        self.acting = acting

    def answer(self, request: ModelRequest) -> Iterable[ModelEvent | float]:
        if self.acting and not any(item.type == "mcp_call" for item in request.items):
            yield ToolCall("c", "act", "{}")
            return
        if self.down:
            raise ModelError("overloaded", retryable=True, retry_after_s=60)
        yield TextDelta("done")
        yield Finished("stop", Usage(1, 1))


def again(want: Begin, **changes: Any) -> Begin:
    """The same message from another connection."""
    return replace(want, token=new_id(), **changes)


async def finish(runtime: Runtime, want: Begin) -> TurnEnd:
    place = await runtime.enter(want)
    assert place.owned is not None
    end = await runtime.admission.run(place)
    assert end is not None
    return end


async def test_by_its_key(redis_url: str) -> None:
    """Nothing had happened: the run goes on from its input."""
    model = Flaky()
    async with running(redis_url, [Agent("a", model="test:m")], {"m": model.answer}) as runtime:
        want, end = await runtime.turn("a", "go", by_key=True)
        assert (end.status, end.retryable) == ("failed", True)
        model.down = False
        assert (await finish(runtime, again(want))).status == "completed"


async def test_by_its_fingerprint(redis_url: str) -> None:
    """Without a key it is the SDK's word that makes it the same message."""
    model = Flaky()
    async with running(redis_url, [Agent("a", model="test:m")], {"m": model.answer}) as runtime:
        want, _ = await runtime.turn("a", "go")
        model.down = False
        assert (await finish(runtime, again(want, run=new_id(), retried=True))).status == "completed"


async def test_in_a_busy_session(redis_url: str, body: Body) -> None:
    """It waits in line and then begins behind what came meanwhile; its event log goes on where it was."""
    model = Flaky()
    async with running(redis_url, [Agent("a", model="test:m"), ECHO], {"m": model.answer}) as runtime:
        want = runtime.begin("a", "go", by_key=True)
        failed = await runtime.admission.run_in_background(await runtime.enter(want), lambda _: None)
        assert failed is not None and failed.retryable
        model.down = False
        other = await runtime.enter(runtime.begin("e", "other", session=want.session))
        waiting = asyncio.create_task(finish(runtime, again(want)))
        while not (await runtime.services.events.read(want.session, want.run, -1))[0].in_line:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await runtime.admission.run(other)
        assert (await waiting).status == "completed"
        _, last = await runtime.turn("e", "hello", session=want.session)
        assert last.status == "completed"
        numbers = [
            number async for batch in runtime.following.frames(Place(want.session, want.run)) for number, _, _ in batch
        ]
        assert numbers == sorted(set(numbers))


async def test_too_late(redis_url: str) -> None:
    """What it left in the history has something behind it: it stays failed, and nobody is told to try again."""

    @tool(effect=Effect.IDEMPOTENT)
    async def act() -> str:
        """Act."""
        return "acted"

    model = Flaky(acting=True)
    agents = [Agent("a", model="test:m", tools=[act]), ECHO]
    async with running(redis_url, agents, {"m": model.answer}) as runtime:
        want, end = await runtime.turn("a", "go", by_key=True)
        assert end.retryable
        await runtime.turn("e", "other", session=want.session)
        assert await runtime.services.sessions.begin(again(want)) == Ended(want.run)
        state, _ = await runtime.services.events.read(want.session, want.run, -1)
        assert state is not None
        assert (state.status, state.retry) == ("failed", False)


async def test_a_fork_is_for_good(redis_url: str) -> None:
    """Under a key a message that forked never becomes a run of the old conversation too."""
    going = asyncio.Event()

    def answer(request: ModelRequest) -> Iterable[ModelEvent | float]:
        going.set()
        yield 0.1
        raise ModelError("down", retryable=False)

    async with running(redis_url, [Agent("a", model="test:m"), ECHO], {"m": answer}) as runtime:
        parent, _ = await runtime.turn("e", "parent")
        first = runtime.begin("a", "first", session=parent.session, parent=parent.run, create=False)
        task = runtime.admission.run_in_background(await runtime.enter(first))
        await going.wait()
        second = runtime.begin("e", "second", session=parent.session, parent=parent.run, create=False, by_key=True)
        assert await runtime.services.sessions.begin(second) == Fork()
        await task  # the first one failed and left nothing: the parent is the tail again
        assert await runtime.services.sessions.begin(again(second)) == Fork()


def without_a_lease(runtime: Runtime) -> None:
    """From now on the queue's master is away, and that of the sessions is not."""
    runtime.services.leases.entering = lambda _: Away()  # type: ignore[method-assign,assignment,return-value]


async def test_without_a_lease_it_is_not_resumed(redis_url: str) -> None:
    """What an earlier attempt did stays, and nobody owns the session: else nobody would miss its owner."""
    done = []

    @tool
    async def act() -> str:
        """Act."""
        done.append(1)
        return "acted"

    model = Flaky(acting=True)
    async with running(redis_url, [Agent("a", model="test:m", tools=[act])], {"m": model.answer}) as runtime:
        want, end = await runtime.turn("a", "go", by_key=True)
        assert end.retryable and done
        model.down = False
        enter = runtime.services.leases.entering
        without_a_lease(runtime)
        with pytest.raises(StoreUnavailable):
            await runtime.enter(again(want))
        state, _ = await runtime.services.events.read(want.session, want.run, -1)
        assert state is not None and (state.status, state.live) == ("failed", None)
        runtime.services.leases.entering = enter  # type: ignore[method-assign]
        assert (await finish(runtime, again(want))).status == "completed"
    assert len(done) == 1


async def test_without_a_lease_nobody_stands_in_line(redis_url: str) -> None:
    async with running(redis_url, [ECHO]) as runtime:
        live = await runtime.enter(runtime.begin("e", "first"))
        want = runtime.begin("e", "second", session=live.session, by_key=True)
        without_a_lease(runtime)
        with pytest.raises(StoreUnavailable):
            await runtime.enter(want)
        async with asyncio.timeout(10):
            while (await runtime.services.events.read(want.session, want.run, -1))[0].in_line:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        await runtime.admission.run(live)
