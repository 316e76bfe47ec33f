"""One turn: what the model, the tools and the bounds make of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentrt.agent import Agent, Effect, Limits, ToolContext
from agentrt.errors import ModelError, ToolError
from agentrt.models.base import Finished, ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.records import Usage
from agentrt.runtime.turn import TurnEnd
from agentrt.tools.function import tool
from tests.runtime.conftest import running

Body = Callable[[TurnEnd], dict[str, Any]]


def calling(*calls: tuple[str, str]) -> Callable[[ModelRequest], Iterable[ModelEvent]]:
    """A model that asks for `calls` (name, arguments) once and then says what came of them."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        done = [item for item in request.items if item.type == "mcp_call"]
        if done:
            yield TextDelta(" | ".join(str(item.data["output"]) for item in done))
        else:
            for number, (name, arguments) in enumerate(calls):
                yield ToolCall(f"c{number}", name, arguments)

    return answer


@tool(effect=Effect.READ_ONLY)
async def double(number: int) -> int:
    """Double a number."""
    return number * 2


@tool
async def refuse() -> str:
    """Refuse."""
    raise ToolError("not today")


@tool
async def crash() -> str:
    """Crash."""
    raise ValueError("secret-4711")


@tool(effect=Effect.IDEMPOTENT, timeout=0.05)
async def dawdle() -> str:
    """Take too long."""
    await asyncio.sleep(30)
    return "late"


@tool(effect=Effect.READ_ONLY)
async def trip() -> str:
    """Meet a cancellation of one's own making."""
    task = asyncio.create_task(asyncio.sleep(5))
    task.cancel()
    await task
    return "never"


@tool
async def garble() -> str:
    """Return what is no text."""
    return "\ud800"


TOOLS = [double, refuse, crash, dawdle, trip, garble]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("double", '{"number": 21}'), "42"),
        (("double", '{"number": "many"}'), "Invalid arguments for double: number:"),
        (("double", "not json"), "Invalid arguments for double:"),
        (("nothing", "{}"), "There is no tool named 'nothing'."),
        (("refuse", "{}"), "not today"),
        (("crash", "{}"), "The tool failed with ValueError. Whether it took effect before that is not known."),
        (("dawdle", "{}"), "The tool did not answer within 0.05 s. The outcome of this call is unknown"),
        (("trip", "{}"), "The tool failed with CancelledError."),
        (("garble", "{}"), "?"),
    ],
)
async def test_what_a_call_tells_the_model(redis_url: str, body: Body, call: tuple[str, str], said: str) -> None:
    """Outputs, and every kind of failure, go back to the model; nothing of an exception but its type."""
    agent = Agent("a", model="test:m", tools=TOOLS)
    async with running(redis_url, [agent], {"m": calling(call)}) as runtime:
        _, end = await runtime.turn("a", "go")
        text = body(end)["output"][-1]["content"][0]["text"]
        assert text.startswith(said)
        assert "secret-4711" not in end.result.decode()


async def test_calls_of_one_step_run_in_parallel(redis_url: str, body: Body) -> None:
    """Two calls that wait for each other both end."""
    met = asyncio.Barrier(2)

    @tool(effect=Effect.READ_ONLY, timeout=5)
    async def meet() -> str:
        """Meet."""
        await met.wait()
        return "met"

    agent = Agent("a", model="test:m", tools=[meet])
    async with running(redis_url, [agent], {"m": calling(("meet", "{}"), ("meet", "{}"))}) as runtime:
        _, end = await runtime.turn("a", "go")
        assert body(end)["output"][-1]["content"][0]["text"] == "met | met"


async def test_a_blocking_tool_does_not_hold_up_the_pod(redis_url: str) -> None:
    """While a sync tool blocks its thread, another turn begins and ends on the same pod."""
    release = threading.Event()

    @tool(effect=Effect.READ_ONLY, timeout=20)
    def block() -> str:
        """Block."""
        assert release.wait(10)
        return "released"

    agents = [Agent("a", model="test:m", tools=[block]), Agent("echo", model="scripted:echo")]
    async with running(redis_url, agents, {"m": calling(("block", "{}"))}) as runtime:
        blocked = asyncio.create_task(runtime.turn("a", "go"))
        try:
            _, end = await runtime.turn("echo", "hi")
            assert end.status == "completed" and not blocked.done()
        finally:
            release.set()
        _, end = await blocked
        assert end.status == "completed"


@pytest.mark.parametrize(
    ("limits", "answer", "noted"),
    [
        (Limits(steps=2), lambda request: [ToolCall("c", "double", '{"number": 1}')], "max_steps"),
        (Limits(output_bytes=100), lambda request: [TextDelta("x" * 60) for _ in range(10)], None),
    ],
)
async def test_bounds_end_a_run_as_incomplete(
    redis_url: str,
    body: Body,
    limits: Limits,
    answer: Callable[[ModelRequest], Iterable[ModelEvent]],
    noted: str | None,
) -> None:
    """Too many steps, too long a reply: `incomplete`, with the reason, never a crash."""
    agent = Agent("a", model="test:m", tools=TOOLS, limits=limits)
    async with running(redis_url, [agent], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "go")
        final = body(end)
        assert final["status"] == "incomplete"
        assert final["incomplete_details"] == {"reason": "max_output_tokens"}
        assert final["metadata"].get("agentrt_incomplete") == noted


async def test_too_many_calls_and_too_long_outputs(redis_url: str, body: Body) -> None:
    """The calls past the bound are told so; an output past the bound is cut and marked."""

    @tool(effect=Effect.READ_ONLY)
    async def talk() -> str:
        """Talk."""
        return "y" * 1000

    limits = Limits(calls_per_step=2, tool_output_bytes=100)
    agent = Agent("a", model="test:m", tools=[talk], limits=limits)
    async with running(redis_url, [agent], {"m": calling(*[("talk", "{}")] * 3)}) as runtime:
        _, end = await runtime.turn("a", "go")
        first, _, third = (item for item in body(end)["output"] if item["type"] == "mcp_call")
        assert first["output"].startswith("y" * 100) and "cut" in first["output"]
        assert third["status"] == "failed" and "limit is 2" in third["output"]


async def test_an_input_past_the_context_is_refused(redis_url: str, body: Body) -> None:
    """`failed` with `invalid_prompt`, and the history does not keep what no model could read."""
    agent = Agent("a", model="scripted:echo", limits=Limits(context_tokens=50))
    async with running(redis_url, [agent]) as runtime:
        want, end = await runtime.turn("a", "word " * 500)
        assert (end.status, body(end)["error"]["code"]) == ("failed", "invalid_prompt")
        assert await runtime.services.sessions.history(want.session, 10) == []


async def test_a_passing_model_error_is_retried_and_leaves_no_text_twice(redis_url: str, body: Body) -> None:
    """The first try dies in the middle of a word: the client sees it closed as incomplete, the answer has it once."""
    tries = 0

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        nonlocal tries
        tries += 1
        yield TextDelta("Hel")
        if tries == 1:
            raise ModelError("cut", retryable=True, retry_after_s=0.01)
        yield TextDelta("lo")
        yield Finished("stop", Usage(1, 1))

    agent = Agent("a", model="test:m")
    async with running(redis_url, [agent], {"m": answer}) as runtime:
        frames: list[tuple[int, str, bytes]] = []
        place = await runtime.enter(runtime.begin("a", "hi"))
        end = await runtime.admission.run(place, frames.append)
        assert end is not None
        final = body(end)
    assert [item["content"][0]["text"] for item in final["output"]] == ["Hello"]
    assert final["usage"] is None, "the lost try cost something that nobody reported"
    opened = [kind for _, kind, _ in frames if kind.startswith("response.output_item")]
    assert opened == ["response.output_item.added", "response.output_item.done"] * 2
    assert tries == 2


async def test_a_failure_that_may_pass_is_resumed_by_the_same_message(redis_url: str, body: Body) -> None:
    """The model is down after a tool ran: `failed`; the same message again goes on from the journal, the tool is not
    run twice, and the history has everything once."""
    runs, down = 0, True

    @tool(effect=Effect.IDEMPOTENT)
    async def act() -> str:
        """Act."""
        nonlocal runs
        runs += 1
        return f"acted {runs}"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        if not any(item.type == "mcp_call" for item in request.items):
            yield ToolCall("c", "act", "{}")
        elif down:
            raise ModelError("overloaded", retryable=True, retry_after_s=60)
        else:
            yield TextDelta("done")

    agent = Agent("a", model="test:m", tools=[act])
    async with running(redis_url, [agent], {"m": answer}) as runtime:
        want, end = await runtime.turn("a", "go", by_key=True)
        assert (end.status, end.retryable) == ("failed", True)
        down = False
        _, end = await runtime.turn("a", "go", by_key=True, session=want.session, run=want.run)
        assert end.status == "completed"
        assert runs == 1
        lines = await runtime.services.sessions.history(want.session, 100)
        assert len(lines) == 3
        assert [item["type"] for item in body(end)["output"]] == ["mcp_call", "message"]


async def test_a_defect_ends_the_run_not_the_pod(redis_url: str, body: Body) -> None:
    """Whatever goes wrong inside, the run is closed as failed and the session is free again."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        raise RuntimeError("a defect")

    agent = Agent("a", model="test:m")
    async with running(redis_url, [agent, Agent("ok", model="scripted:echo")], {"m": answer}) as runtime:
        want, end = await runtime.turn("a", "hi")
        assert end.status == "failed"
        assert "defect" not in body(end)["error"]["message"]
        _, end = await runtime.turn("ok", "hi", session=want.session)
        assert end.status == "completed"


async def test_what_tools_share(redis_url: str, body: Body) -> None:
    """Made when the pod starts, the same for every call, closed when the pod stops."""
    seen: list[str] = []

    @asynccontextmanager
    async def till() -> AsyncIterator[list[str]]:
        seen.append("open")
        yield seen
        seen.append("closed")

    @tool(effect=Effect.READ_ONLY)
    async def use(ctx: ToolContext) -> str:
        """Use it."""
        ctx.deps.append("used")
        return "used"

    agent = Agent("a", model="test:m", tools=[use])
    async with running(redis_url, [agent], {"m": calling(("use", "{}"))}, deps=till) as runtime:
        await runtime.turn("a", "go")
        await runtime.turn("a", "go")
    assert seen == ["open", "used", "used", "closed"]
