"""More messages while a run is at work: it takes them in, and answers for all; or it is rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect, Limits
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.records import Request
from agentrt.runtime.admission import Place
from agentrt.runtime.refusals import OtherBody
from agentrt.store.begin import Ended, Steered
from agentrt.tools.function import tool
from tests.runtime.conftest import Runtime, running


def said(request: ModelRequest) -> list[str]:
    """What the client said, oldest first."""
    return [
        part["text"]
        for item in request.items
        if item.data.get("role") == "user"
        for part in item.data["content"]
        if part["type"] == "input_text"
    ]


class Stage:
    """A model that tells what it was told, and waits where a test wants it to."""

    def __init__(self) -> None:
        self.asked = 0
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    def answer(self, request: ModelRequest) -> Iterable[ModelEvent | float]:
        self.asked += 1
        heard = said(request)
        if heard[-1] == "act" and not any(item.type == "mcp_call" for item in request.items):
            yield ToolCall("call-1", "look", "{}")
            return
        if heard[-1] == "ticket" and not any(item.type == "mcp_call" for item in request.items):
            yield ToolCall("call-1", "open_ticket", "{}")
            return
        yield TextDelta(f"heard {'+'.join(heard)}")
        self.reached.set()
        while not self.go.is_set():
            yield 0.01

    async def wait(self) -> str:
        """A tool's work: until the test lets it go."""
        self.reached.set()
        await self.go.wait()
        return "seen"


async def steered(runtime: Runtime, first: Any, text: str, **changes: Any) -> Place:
    want = runtime.begin("a", text, session=first.session, policy="steer", **changes)
    return await runtime.admission.enter(want)


async def ending(runtime: Runtime, place: Place) -> dict[str, Any]:
    state = await runtime.following.result(place)
    assert state is not None
    return dict(orjson.loads(state.result))


async def begun(runtime: Runtime, stage: Stage, text: str) -> Any:
    want = runtime.begin("a", text)
    runtime.admission.run_in_background(await runtime.enter(want), lambda _: None)
    await stage.reached.wait()
    return want


def texts(body: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in body["output"] if item["type"] == "message"]


def agent(stage: Stage, **changes: Any) -> Agent:
    @tool(effect=Effect.READ_ONLY)
    async def look() -> str:
        """Look, for as long as it takes."""
        return await stage.wait()

    @tool(effect=Effect.AT_MOST_ONCE)
    async def open_ticket() -> str:
        """Open a ticket."""
        return await stage.wait()

    return Agent("a", model="test:m", tools=[look, open_ticket], **changes)


async def history(runtime: Runtime, first: Any) -> list[dict[str, Any]]:
    owned = await runtime.services.sessions.begin(runtime.begin("a", "look at it", session=first.session))
    return [item.data for item in owned.window]  # type: ignore[union-attr]


async def test_taken_in_at_the_next_step(redis_url: str) -> None:
    """While a tool works: the next question to the model has both, and the answer is one, to both."""
    stage = Stage()
    async with (
        running(redis_url, [agent(stage)], {"m": stage.answer}, pod="pod-a") as a,
        running(redis_url, [agent(stage)], {"m": stage.answer}, pod="pod-b") as b,
    ):
        first = await begun(a, stage, "act")
        place = await steered(b, first, "and hurry")
        assert place.run == first.run
        stage.go.set()
        body = await ending(b, place)
        assert body["status"] == "completed"
        assert texts(body) == ["heard act+and hurry"]
        kept = await history(a, first)
        assert [item["type"] for item in kept] == ["message", "mcp_call", "message", "message"]
        assert [item.get("role") for item in kept] == ["user", None, "user", "assistant"]
        assert len({item["id"] for item in kept}) == 4


@pytest.mark.parametrize("noticed", [True, False])
async def test_during_the_final_reply(redis_url: str, noticed: bool) -> None:
    """The reply stands, and one more answers what came meanwhile; commit finds it where the notice was lost."""
    stage = Stage()
    async with running(redis_url, [agent(stage)], {"m": stage.answer}) as runtime:
        first = await begun(runtime, stage, "hello")
        place = await steered(runtime, first, "one more")
        if not noticed:
            runtime.services.notices.steered.clear()
        stage.go.set()
        body = await ending(runtime, place)
        assert texts(body) == ["heard hello", "heard hello+one more"]
        numbers = []
        kinds = []
        async for batch in runtime.following.frames(place):
            numbers += [number for number, _, _ in batch]
            kinds += [kind for _, kind, _ in batch]
        assert numbers == list(range(len(numbers)))
        assert kinds.count("response.completed") == 1
        assert kinds[-1] == "response.completed"
        kept = await history(runtime, first)
        assert [item.get("role") for item in kept] == ["user", "assistant", "user", "assistant"]


async def test_the_same_message_again(redis_url: str) -> None:
    """Under a key, or by what it says: taken in once, and found again when the run has ended."""
    stage = Stage()
    async with running(redis_url, [agent(stage)], {"m": stage.answer}) as runtime:
        first = await begun(runtime, stage, "hello")
        keyed = runtime.begin("a", "keyed", session=first.session, policy="steer", by_key=True)
        plain = runtime.begin("a", "plain", session=first.session, policy="steer")
        for want in (keyed, keyed, plain, plain):
            assert (await runtime.admission.enter(want)).run == first.run
        with pytest.raises(OtherBody):
            await runtime.admission.enter(
                runtime.begin("a", "other", session=first.session, run=keyed.run, policy="steer", by_key=True)
            )
        stage.go.set()
        assert texts(await ending(runtime, Place(first.session, first.run)))[-1] == "heard hello+keyed+plain"
        assert await runtime.services.sessions.begin(keyed) == Steered(first.run)
        again = runtime.begin("a", "plain", session=first.session, policy="steer", retried=True)
        assert await runtime.services.sessions.begin(again) == Ended(first.run)


async def test_into_an_idle_session(redis_url: str) -> None:
    """Nobody is at work: it is a message like any other."""
    stage = Stage()
    stage.go.set()
    async with running(redis_url, [agent(stage)], {"m": stage.answer}) as runtime:
        want, end = await runtime.turn("a", "hello", policy="steer")
        assert end.status == "completed"
        _, end = await runtime.turn("a", "again", policy="steer", session=want.session)
        assert texts(orjson.loads(end.result)) == ["heard hello+again"]


async def test_a_run_that_may_not_go_on_keeps_what_came(redis_url: str) -> None:
    """Out of steps: the message is in the history all the same."""
    stage = Stage()
    short = agent(stage, limits=Limits(steps=1))
    async with running(redis_url, [short], {"m": stage.answer}) as runtime:
        first = await begun(runtime, stage, "hello")
        place = await steered(runtime, first, "one more")
        stage.go.set()
        assert texts(await ending(runtime, place)) == ["heard hello"]
        assert [item.get("role") for item in await history(runtime, first)] == ["user", "assistant", "user"]


async def test_another_pod_goes_on_with_it(redis_url: str) -> None:
    """What came is the session's, not the pod's: a run that is taken over has taken in the same."""
    stage = Stage()
    async with (
        running(redis_url, [agent(stage)], {"m": stage.answer}, pod="pod-a") as a,
        running(redis_url, [agent(stage)], {"m": stage.answer}, pod="pod-b") as b,
    ):
        first = await begun(a, stage, "act")
        place = await steered(b, first, "and hurry")
        live = (await a.services.events.read(first.session, first.run, -1))[0].live  # type: ignore[union-attr]
        assert live is not None
        stage.go.set()
        claimed = await b.services.sessions.claim(first.session, live, "token-of-b")
        assert claimed is not None
        record = claimed.record  # type: ignore[union-attr]
        taken = Place(first.session, first.run, claimed)  # type: ignore[arg-type]
        taken.request, taken.inputs = Request.decode(record["request"]), orjson.loads(record["input"])
        b.admission.run_in_background(taken)
        assert texts(await ending(b, place)) == ["heard act+and hurry"]


@pytest.mark.parametrize(
    ("text", "rolled_back", "roles"),
    [
        ("hello", True, ["user", "user", "assistant"]),
        ("act", True, ["user", "user", "assistant"]),
        ("ticket", False, ["user", None, "user", "assistant"]),
    ],
)
async def test_rollback(redis_url: str, text: str, rolled_back: bool, roles: list[str | None]) -> None:
    """What was said and read is dropped; once something may have happened in the world, it stays."""
    stage = Stage()
    async with running(redis_url, [agent(stage)], {"m": stage.answer}) as runtime:
        first = await begun(runtime, stage, text)
        second = runtime.begin("a", "instead", session=first.session, policy="rollback")
        waiting = asyncio.create_task(runtime.enter(second))
        while not runtime.services.notices.cancelled:
            await asyncio.sleep(0.01)
        stage.go.set()
        end = await runtime.admission.run(await waiting)
        assert end is not None
        assert end.status == "completed"
        body = await ending(runtime, Place(first.session, first.run))
        assert body["status"] == "cancelled"
        assert bool(body["output"]) is not rolled_back
        assert (body["metadata"].get("agentrt_rolled_back") == "true") is rolled_back
        assert [item.get("role") for item in await history(runtime, first)] == roles
