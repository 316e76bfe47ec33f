"""The Anthropic adapter against a fake server that speaks the real wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentrt.models.anthropic import AnthropicModel
from agentrt.models.base import (
    Finished,
    ModelRequest,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
)
from agentrt.records import Item, Usage
from tests.models.asking import KEY, PROMPT, REQUEST, STATUSES, collect, refused
from tests.models.fake_anthropic import Script, failure, fake_anthropic
from tests.models.fake_server import FakeServer, serve

USAGE = Usage(100, 20, 64, 8, 6)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with serve(fake_anthropic) as server:
        yield server


@pytest.fixture
async def model(fake: FakeServer) -> AsyncIterator[AnthropicModel]:
    model = AnthropicModel("claude-test", api_key=KEY, base_url=fake.url, timeout_s=5.0)
    yield model
    await model.aclose()


async def test_text_and_usage(fake: FakeServer, model: AnthropicModel) -> None:
    fake.script.append(Script().text("Hel", "", "lo").stopped("end_turn"))
    assert await collect(model) == [TextDelta("Hel"), TextDelta("lo"), Finished("stop", USAGE)]
    assert fake.seen[0].body == {
        "model": "claude-test",
        "stream": True,
        "max_tokens": 16_384,
        "cache_control": {"type": "ephemeral"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
    }


async def test_thinking_then_parallel_calls(fake: FakeServer, model: AnthropicModel) -> None:
    script = Script().thinking("hm", "sig").redacted("xx").call("toolu_1", "a", '{"x"', ": 1}")
    fake.script.append(script.call("toolu_2", "b").stopped("tool_use"))
    thinking = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    assert await collect(model) == [
        ReasoningDone({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"data": thinking}),
        ReasoningDone({"type": "reasoning", "summary": []}, {"data": {"type": "redacted_thinking", "data": "xx"}}),
        ToolCall("toolu_1", "a", '{"x": 1}'),
        ToolCall("toolu_2", "b", "{}"),
        Finished("tool_calls", USAGE),
    ]


async def test_thinking_goes_back_with_its_signature(fake: FakeServer, model: AnthropicModel) -> None:
    fake.script += [Script().thinking("hm", "sig").text("a").stopped("end_turn"), Script().stopped("end_turn")]
    thought = (await collect(model))[0]
    assert isinstance(thought, ReasoningDone)
    run = "r" * 22
    private = {"step": 0, "provider": "anthropic"}
    items = [
        *REQUEST.items,
        Item.of({"id": f"rs_{run}0", **thought.data}, {**private, **thought.private}),
        Item.of({"id": f"msg_{run}1", "role": "assistant", "content": "a"}, private),
        Item.of({"id": "msg_x", "role": "user", "content": "more"}),
    ]
    await collect(model, ModelRequest(items))
    assert fake.seen[1].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "a"},
    ]


async def test_refusal(fake: FakeServer, model: AnthropicModel) -> None:
    details = {"type": "refusal", "category": None, "explanation": "not that"}
    fake.script.append(Script().stopped("refusal", stop_details=details))
    assert await collect(model) == [RefusalDelta("not that"), Finished("content_filter", USAGE)]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "stop"),
    ],
)
async def test_stop_reasons(fake: FakeServer, model: AnthropicModel, reason: str, said: str) -> None:
    fake.script.append(Script().text("a").stopped(reason))
    assert (await collect(model))[-1] == Finished(said, USAGE)


@pytest.mark.parametrize(("reason", "kept"), [("max_tokens", 1), ("tool_use", 2)])
async def test_cut_call_is_dropped(fake: FakeServer, model: AnthropicModel, reason: str, kept: int) -> None:
    fake.script.append(Script().call("t1", "a", "{}").call("t2", "a", '{"x').stopped(reason))
    calls = [event for event in await collect(model) if isinstance(event, ToolCall)]
    assert [call.call_id for call in calls] == ["t1", "t2"][:kept]


async def test_all_options_are_sent(fake: FakeServer, model: AnthropicModel) -> None:
    fake.script.append(Script().stopped("end_turn"))
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    request = ModelRequest(
        REQUEST.items,
        instructions="Be brief.",
        tools=[ToolSpec("t", "does", schema), ToolSpec("u", "does", schema, strict=True)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=7,
        temperature=0.0,
        top_p=0.5,
        text_format={"type": "json_schema", "name": "n", "schema": schema},
    )
    await collect(model, request)
    body = fake.seen[0].body
    cached = {"cache_control": {"type": "ephemeral"}}
    assert body["system"] == [{"type": "text", "text": "Be brief.", **cached}]
    tool = {"description": "does", "input_schema": schema}
    assert body["tools"] == [{"name": "t", **tool}, {"name": "u", **tool, "strict": True, **cached}]
    assert b'"properties":{"z":{},"a":{}}' in fake.seen[0].raw.replace(b" ", b"")
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (7, 0.0, 0.5)
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize(("status", "code", "retryable"), STATUSES)
async def test_status(fake: FakeServer, model: AnthropicModel, status: int, code: str, retryable: bool) -> None:
    fake.script.append(failure(status, "some_code", f"bad: {PROMPT} {KEY}"))
    error = await refused(model)
    assert (error.code, error.retryable) == (code, retryable)
    assert all(told in str(error) for told in (str(status), "some_code", "req_1")), error
    assert len(fake.seen) == 1  # the SDK does not retry


async def test_rate_limit_says_when(fake: FakeServer, model: AnthropicModel) -> None:
    fake.script.append(failure(429, "rate_limit_error", "slow down", retry_after="7", retry_after_ms="1500"))
    error = await refused(model)
    assert (error.code, error.retryable, error.retry_after_s) == ("rate_limit_exceeded", True, 1.5)


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("rate_limit_error", "rate_limit_exceeded", True),
        ("overloaded_error", "server_error", True),
        ("api_error", "server_error", True),
        ("unheard_of", "server_error", True),
        ("invalid_request_error", "invalid_prompt", False),
        ("authentication_error", "server_error", False),
    ],
)
async def test_error_in_the_stream(
    fake: FakeServer, model: AnthropicModel, kind: str, code: str, retryable: bool
) -> None:
    fake.script.append(Script().text("a").error(kind, f"{PROMPT} {KEY}"))
    error = await refused(model)
    assert (error.code, error.retryable) == (code, retryable)
    assert kind in str(error)


async def test_overloaded_says_when(fake: FakeServer, model: AnthropicModel) -> None:
    fake.script.append(failure(529, "overloaded_error", "busy", retry_after="3"))
    error = await refused(model)
    assert (error.code, error.retryable, error.retry_after_s) == ("server_error", True, 3.0)


@pytest.mark.parametrize(
    "data", ["{not json", "5", "[]", "null", '"x"', "{}", '{"type": "content_block_delta", "index": 9}']
)
async def test_malformed_event(fake: FakeServer, model: AnthropicModel, data: str) -> None:
    fake.script.append(Script().malformed(data))
    error = await refused(model)
    assert (error.code, error.retryable) == ("server_error", True)
