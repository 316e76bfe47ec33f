"""Asking models that fail: what is tried again, when, of whom, and what the client gets to see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Limits
from agentrt.errors import ModelError
from agentrt.models.base import Finished, ModelEvent, ModelRequest, RefusalDelta, TextDelta, ToolCall
from agentrt.records import Usage
from agentrt.runtime.turn import TurnEnd
from agentrt.tools.function import tool
from tests.runtime.conftest import Answer, Runtime, running

Body = Callable[[TurnEnd], dict[str, Any]]
NOW = 0.001
"""A Retry-After that costs the test no time."""


def fails(*errors: ModelError | str) -> tuple[Answer, list[float]]:
    """A model that raises each error (after a word, where one is given in front of it) and then answers; and when it
    was asked, by the loop's clock."""
    asked: list[float] = []
    script = list(errors)

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        asked.append(asyncio.get_running_loop().time())
        while script:
            one = script.pop(0)
            if isinstance(one, ModelError):
                raise one
            yield TextDelta(one)
        yield TextDelta("fine")
        yield Finished("stop", Usage(10, 2))

    return answer, asked


def down(**changes: Any) -> ModelError:
    return ModelError("down", **{"retryable": True, "retry_after_s": NOW, "refused": True, **changes})


def metric(runtime: Runtime, name: str, **labels: str) -> float:
    return runtime.services.telemetry.registry.get_sample_value(name, labels) or 0.0


async def streamed(runtime: Runtime, text: str, **options: Any) -> tuple[TurnEnd, list[dict[str, Any]]]:
    """A turn with a client that listens."""
    frames: list[bytes] = []
    place = await runtime.enter(runtime.begin("a", text, options=options))
    end = await runtime.admission.run(place, lambda frame: frames.append(frame[2]))
    assert end is not None
    return end, [orjson.loads(frame) for frame in frames]


async def test_a_refused_try_costs_nothing_and_usage_stays_known(redis_url: str, body: Body) -> None:
    """A 529 before the reply began: tried again, usage is that of the reply."""
    answer, asked = fails(down(), down())
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "hi")
        assert body(end)["usage"]["total_tokens"] == 12
        assert len(asked) == 3
        assert metric(runtime, "agentrt_model_retries_total", model="test:m") == 2
        assert metric(runtime, "agentrt_model_calls_total", model="test:m", outcome="unavailable") == 2
        assert metric(runtime, "agentrt_model_tokens_total", model="test:m", kind="input") == 10


async def test_text_before_a_call_is_given_up_with_it(redis_url: str, body: Body) -> None:
    """A reply that is cut behind its first call: its text is closed as incomplete, not told as said and then again."""
    tries = 0

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        nonlocal tries
        tries += 1
        yield TextDelta("Let me see.")
        if tries == 1:
            yield ToolCall("c", "nothing", "{}")
            raise down()
        yield Finished("stop", Usage(10, 2))

    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        end, events = await streamed(runtime, "hi")
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in done] == ["incomplete", "completed"]
    assert [item["id"] for item in body(end)["output"]] == [done[1]["id"]]


async def test_a_refusal_behind_text_is_a_message_of_its_own(redis_url: str, body: Body) -> None:
    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        yield TextDelta("Here is how to")
        yield RefusalDelta("I cannot ")
        yield RefusalDelta("help with that.")
        yield Finished("content_filter", Usage(10, 2))

    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        end, events = await streamed(runtime, "hi")
    assert [item["content"] for item in body(end)["output"]] == [
        [{"type": "output_text", "text": "Here is how to", "annotations": [], "logprobs": []}],
        [{"type": "refusal", "refusal": "I cannot help with that."}],
    ]
    where = {event["type"]: event["output_index"] for event in events if event["type"].endswith(".delta")}
    assert where == {"response.output_text.delta": 0, "response.refusal.delta": 1}


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "book"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "book"}]},
    ],
)
async def test_a_call_is_forced_once(redis_url: str, body: Body, choice: Any) -> None:
    """A model that obeys would else make it in every step."""
    booked = []

    @tool
    async def book() -> str:
        """Book."""
        booked.append(1)
        return "done"

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        choice = request.tool_choice
        free = choice == "auto" or (isinstance(choice, dict) and choice.get("mode") == "auto")
        yield TextDelta("fine") if free else ToolCall("c", "book", "{}")
        yield Finished("stop" if free else "tool_calls", Usage(10, 2))

    async with running(redis_url, [Agent("a", model="test:m", tools=[book])], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "hi", options={"tool_choice": choice})
    assert end.status == "completed"
    assert len(booked) == 1


async def test_a_model_that_begins_to_answer_again_is_open_to_all(redis_url: str, body: Body) -> None:
    """Its circuit was open, and the answer that decides takes its time: others need not wait for its end."""
    speaking, enough = asyncio.Event(), False

    def answer(request: ModelRequest) -> Iterable[ModelEvent | float]:
        yield TextDelta("well")
        speaking.set()
        while not enough and "slow" in str(request.items[0].data):
            yield 0.01
        yield Finished("stop", Usage(10, 2))

    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        circuit = runtime.services.models.circuit("test:m")
        circuit._enter("open")
        slow = asyncio.create_task(runtime.turn("a", "slow"))
        await speaking.wait()
        async with asyncio.timeout(10):
            _, end = await runtime.turn("a", "quick")
        assert end.status == "completed" and not slow.done()
        enough = True
        await slow


async def test_retry_after_is_honoured(redis_url: str) -> None:
    """Never sooner than it was asked for; other failures wait at least half the base."""
    answer, asked = fails(down(retry_after_s=0.3), down(retry_after_s=None))
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        await runtime.turn("a", "hi")
    assert asked[1] - asked[0] >= 0.3
    assert asked[2] - asked[1] >= 0.5


async def test_more_patience_than_allowed_goes_to_the_client(redis_url: str) -> None:
    """Not asked again; the run fails in a way that may pass, and says when."""
    answer, asked = fails(down(retry_after_s=30))
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "hi")
        assert (end.status, end.retryable, end.retry_after_s, len(asked)) == ("failed", True, 30, 1)


@pytest.mark.parametrize(("error", "tries"), [(down(retryable=False), 1), (down(), 3)])
async def test_tries_are_bounded(redis_url: str, error: ModelError, tries: int) -> None:
    """What will not pass is not tried again; what may pass, three times."""
    answer, asked = fails(*[error] * 9)
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        _, end = await runtime.turn("a", "hi")
        assert (end.status, len(asked)) == ("failed", tries)


async def test_a_call_of_a_lost_try_is_never_shown(redis_url: str, body: Body) -> None:
    """A client that acts on a call as soon as it sees it must not see one that the answer does not have."""
    tries = 0

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        nonlocal tries
        tries += 1
        yield ToolCall(f"call{tries}", "act", "{}")
        if tries == 1:
            raise down(refused=False)
        yield Finished("tool_calls", Usage(1, 1))

    act = {"type": "function", "name": "act", "parameters": {"type": "object"}}
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}) as runtime:
        end, events = await streamed(runtime, "hi", tools=[act])
    shown = [event["item"]["call_id"] for event in events if event["type"] == "response.output_item.done"]
    assert shown == [item["call_id"] for item in body(end)["output"]] == ["call2"]


async def test_a_cancelled_run_does_not_wait_for_a_silent_model(redis_url: str) -> None:
    """The cancel is noticed while the model says nothing, and while the run pauses before its next try."""
    begun = asyncio.Event()

    def silent(request: ModelRequest) -> Iterable[ModelEvent | float]:
        begun.set()
        yield 60.0

    answers: dict[str, Answer] = {"silent": silent, "down": fails(down(retry_after_s=15))[0]}
    for name in answers:
        async with running(redis_url, [Agent("a", model=f"test:{name}")], answers) as runtime:
            want = runtime.begin("a", "hi")
            place = await runtime.enter(want)
            turn = asyncio.create_task(runtime.admission.run(place))
            if name == "silent":
                await begun.wait()
            runtime.services.notices.cancelled[want.run] = "1"
            end = await asyncio.wait_for(turn, 10)
            assert end is not None and end.status == "cancelled"


async def test_a_call_that_takes_too_long_is_tried_again(redis_url: str) -> None:
    """The bound of the whole call, whatever the gaps are."""
    tries = 0

    def dawdle(request: ModelRequest) -> Iterable[ModelEvent | float]:
        nonlocal tries
        tries += 1
        while tries == 1:
            yield TextDelta("still ")
            yield 0.01
        yield TextDelta("done")

    agent = Agent("a", model="test:m", limits=Limits(model_timeout_s=0.2))
    async with running(redis_url, [agent], {"m": dawdle}) as runtime:
        _, end = await runtime.turn("a", "hi")
        assert (end.status, tries) == ("completed", 2)


async def test_retries_have_a_budget(redis_url: str) -> None:
    """A model that fails every other time, without end: what its replies do not pay for is not tried again."""
    asked = 0

    def half_down(request: ModelRequest) -> Iterable[ModelEvent]:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise down()
        yield TextDelta("fine")

    async with running(redis_url, [Agent("a", model="test:m")], {"m": half_down}) as runtime:
        ends = [(await runtime.turn("a", "hi"))[1].status for _ in range(16)]
    assert ends[:10] == ["completed"] * 10 and "failed" in ends


# --- fallbacks and circuits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [down(retry_after_s=60), down(retryable=False), down(code="invalid_prompt")])
async def test_the_next_model_is_asked_at_once(redis_url: str, error: ModelError, body: Body) -> None:
    """Whatever the first one failed with; and what it had said is closed as incomplete and no part of the answer."""
    (first, asked), (second, _) = fails("Hm", error), fails()
    agent = Agent("a", model=["test:one", "test:two"])
    async with running(redis_url, [agent], {"one": first, "two": second}) as runtime:
        end, events = await streamed(runtime, "hi")
        assert [item["content"][0]["text"] for item in body(end)["output"]] == ["fine"]
        closed = [event["item"]["status"] for event in events if event["type"] == "response.output_item.done"]
        assert (closed, len(asked)) == (["incomplete", "completed"], 1)
        assert metric(runtime, "agentrt_model_fallbacks_total", agent="a", model="test:two") == 1


async def test_all_models_failing_is_told_as_what_may_pass(redis_url: str) -> None:
    """One is out for good, one for a while: the client may come again."""
    (first, _), (second, asked) = fails(down(retryable=False)), fails(*[down()] * 3)
    agent = Agent("a", model=["test:one", "test:two"])
    async with running(redis_url, [agent], {"one": first, "two": second}) as runtime:
        _, end = await runtime.turn("a", "hi")
        assert (end.status, end.retryable, len(asked)) == ("failed", True, 3)


async def test_a_run_stays_with_the_model_that_answered(redis_url: str) -> None:
    """Its next step goes there first; the next run begins at the front again."""
    asked: list[str] = []

    def model(name: str) -> Answer:
        def answer(request: ModelRequest) -> Iterable[ModelEvent]:
            asked.append(name)
            if name == "one" and len(asked) == 1:
                raise down()
            if not any(item.type == "mcp_call" for item in request.items):
                yield ToolCall("c", "missing", "{}")
            else:
                yield TextDelta("done")

        return answer

    agent = Agent("a", model=["test:one", "test:two"])
    async with running(redis_url, [agent], {"one": model("one"), "two": model("two")}) as runtime:
        await runtime.turn("a", "hi")
        await runtime.turn("a", "hi")
    assert asked == ["one", "two", "two", "one", "one"]


async def test_a_dead_model_is_not_asked_by_every_run(redis_url: str) -> None:
    """Five failures in a row open its circuit for this pod: later runs go to the next model without asking it."""
    (first, asked), (second, _) = fails(*[down()] * 50), fails()
    agent = Agent("a", model=["test:one", "test:two"])
    async with running(redis_url, [agent], {"one": first, "two": second}) as runtime:
        for _ in range(12):
            _, end = await runtime.turn("a", "hi")
            assert end.status == "completed"
        assert metric(runtime, "agentrt_model_circuit_opened_total", model="test:one") >= 1
        assert metric(runtime, "agentrt_model_fallbacks_total", agent="a", model="test:two") == 12
        assert len(asked) < 12
        assert metric(runtime, "agentrt_model_circuit", model="test:two") == 0


async def test_costs_are_counted_by_the_operators_prices(redis_url: str, tmp_path: Path) -> None:
    """Where a model has a price; tokens are counted always."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"test:m": {"input": 1000, "output": 5000}}')
    async with running(redis_url, [Agent("a", model="test:m")], {"m": fails()[0]}, prices_file=str(prices)) as runtime:
        await runtime.turn("a", "hi")
        assert metric(runtime, "agentrt_model_cost_total", agent="a", model="test:m") == pytest.approx(0.02)
