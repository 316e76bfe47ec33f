"""A different message in a busy session, from another pod: it waits, is refused, or has what is live ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.models.scripted import last_user_text
from agentrt.runtime.admission import Place
from agentrt.runtime.refusals import Locked
from agentrt.tools.function import tool
from tests.runtime.conftest import Runtime, running


def wordy(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """A hundred words, 50 ms apart; only one for `act`, which calls the tool first, and for `echo`."""
    asked = last_user_text(request.items)
    if asked == "act" and request.items[-1].type != "mcp_call":
        yield ToolCall("call-1", "act", "{}")
        return
    if asked != "talk":
        yield TextDelta("echo")
        return
    for _ in range(100):
        yield 0.05
        yield TextDelta("word ")


@tool(effect=Effect.IDEMPOTENT)
async def act() -> str:
    """Take half a second."""
    await asyncio.sleep(0.5)
    return "acted"


AGENT = Agent("a", model="test:m", tools=[act])


async def busy(runtime: Runtime, text: str, kind: str) -> Any:
    """Begin a run and return its message once its log has an event of that kind."""
    want = runtime.begin("a", text)
    runtime.admission.run_in_background(await runtime.enter(want), lambda _: None)
    async for batch in runtime.following.frames(Place(want.session, want.run)):
        if any(name == kind for _, name, _ in batch):
            return want
    raise AssertionError(kind)


async def ending(runtime: Runtime, want: Any) -> dict[str, Any]:
    state = await runtime.following.result(Place(want.session, want.run))
    assert state is not None
    return dict(orjson.loads(state.result))


@pytest.mark.parametrize(
    ("text", "kind", "kept"),
    [("talk", "response.output_text.delta", []), ("act", "response.mcp_call.in_progress", ["mcp_call"])],
)
async def test_interrupt(redis_url: str, text: str, kind: str, kept: list[str]) -> None:
    """What is live ends within 3 s, a running call with its outcome; the history is whole, the next one is served."""
    async with (
        running(redis_url, [AGENT], {"m": wordy}, pod="pod-a") as a,
        running(redis_url, [AGENT], {"m": wordy}, pod="pod-b") as b,
    ):
        first = await busy(a, text, kind)
        async with asyncio.timeout(3):
            _, end = await b.turn("a", "echo", session=first.session, policy="interrupt")
        assert end.status == "completed"
        cancelled = await ending(b, first)
        assert cancelled["status"] == "cancelled"
        assert [item["type"] for item in cancelled["output"]] == kept
        assert all(item["output"] == "acted" for item in cancelled["output"])
        want, last = await a.turn("a", "echo", session=first.session)
        assert last.status == "completed"
        owned = await a.services.sessions.begin(a.begin("a", "look", session=want.session))
        types = [item.type for item in owned.window]  # type: ignore[union-attr]
        assert types == ["message", *kept, "message", "message", "message", "message"]


async def test_wait_and_reject(redis_url: str) -> None:
    """Neither of them ends anything."""
    async with running(redis_url, [AGENT], {"m": wordy}, wait_ms=300) as runtime:
        first = await busy(runtime, "talk", "response.output_text.delta")
        for policy in ("wait", "reject"):
            with pytest.raises(Locked):
                await runtime.turn("a", "echo", session=first.session, policy=policy)
        assert (await ending(runtime, first))["status"] == "completed"


async def test_a_full_pod_queues_what_it_was_granted(redis_url: str) -> None:
    """A waiter holds no slot; when its turn comes and there is none, another pod runs it."""
    async with (
        running(redis_url, [AGENT], {"m": wordy}, pod="pod-a", max_runs=1) as a,
        running(redis_url, [AGENT], {"m": wordy}, pod="pod-b") as b,
    ):
        blocker = a.begin("a", "talk")
        first = await busy(b, "act", "response.mcp_call.in_progress")
        a.admission.run_in_background(await a.enter(blocker))
        await asyncio.sleep(0)
        second = a.begin("a", "echo", session=first.session)
        place = await a.admission.enter(second)
        assert place.owned is None
        assert (await ending(a, second))["status"] == "completed"
        record = await a.services.conversations.run(second.session, second.run)
        assert record is not None and record.status == "completed"
