"""The chat completions adapter against a fake server that speaks the real wire format, and its cheaper relatives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentrt.models.base import (
    Finished,
    ModelRequest,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
)
from agentrt.models.chat_wire import messages, parameters
from agentrt.models.openai import OpenAIChatModel
from agentrt.records import Item, Usage
from tests.models.asking import KEY, PROMPT, REQUEST, collect, refused
from tests.models.fake_chat import Script, fake_chat
from tests.models.fake_openai import failure
from tests.models.fake_server import FakeServer, Reply, serve, sse

RUN = "a" * 22
USAGE = Usage(100, 20, 64, 8)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with serve(fake_chat) as server:
        yield server


@pytest.fixture
async def model(fake: FakeServer) -> AsyncIterator[OpenAIChatModel]:
    model = OpenAIChatModel("m", api_key=KEY, base_url=f"{fake.url}/v1", timeout_s=5.0)
    yield model
    await model.aclose()


async def test_text_and_usage(fake: FakeServer, model: OpenAIChatModel) -> None:
    fake.script.append(Script().text("Hel", "lo").finished("stop"))
    assert await collect(model) == [TextDelta("Hel"), TextDelta("lo"), Finished("stop", USAGE)]
    assert fake.seen[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_parallel_calls(fake: FakeServer, model: OpenAIChatModel) -> None:
    fake.script.append(Script().call("c1", "a", '{"x"', ": 1}").call("c2", "b").finished("tool_calls"))
    calls = [ToolCall("c1", "a", '{"x": 1}'), ToolCall("c2", "b", "{}")]
    assert await collect(model) == [*calls, Finished("tool_calls", USAGE)]


async def test_calls_without_index_id_or_the_right_reason(fake: FakeServer, model: OpenAIChatModel) -> None:
    """As some servers send them."""
    script = Script()
    for name in ("a", "b"):
        script.delta(tool_calls=[{"function": {"name": name, "arguments": "{"}}])
        script.delta(tool_calls=[{"function": {"arguments": "}"}}])
    fake.script.append(script.finished("stop", done=False, usage=False))
    first, second, end = await collect(model)
    assert isinstance(first, ToolCall) and isinstance(second, ToolCall)
    assert (first.name, first.arguments, second.name) == ("a", "{}", "b")
    assert first.call_id != second.call_id
    assert end == Finished("tool_calls", None)


async def test_calls_that_share_an_index(fake: FakeServer, model: OpenAIChatModel) -> None:
    """As Gemini's compatible endpoint sends parallel calls; and as others repeat a call's id and name in each piece."""
    script = Script()
    for call_id, name in (("c1", "a"), ("c2", "a"), ("c3", "b")):
        for piece in ('{"n"', f': "{call_id}"}}'):
            told = {"index": 0, "id": call_id, "type": "function", "function": {"name": name, "arguments": piece}}
            script.delta(tool_calls=[told])
    fake.script.append(script.finished("tool_calls"))
    assert await collect(model) == [
        ToolCall("c1", "a", '{"n": "c1"}'),
        ToolCall("c2", "a", '{"n": "c2"}'),
        ToolCall("c3", "b", '{"n": "c3"}'),
        Finished("tool_calls", USAGE),
    ]


async def test_thoughts_and_a_refusal(fake: FakeServer, model: OpenAIChatModel) -> None:
    fake.script.append(
        Script().delta(reasoning_content="h").delta(reasoning_content="m").delta(refusal="no").finished("stop")
    )
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    assert await collect(model) == [ReasoningDone(thought), RefusalDelta("no"), Finished("stop", USAGE)]


async def test_cut_calls_are_dropped(fake: FakeServer, model: OpenAIChatModel) -> None:
    fake.script.append(Script().call("c1", "a", "{}").call("c2", "b", '{"x').finished("length"))
    assert await collect(model) == [ToolCall("c1", "a", "{}"), Finished("length", USAGE)]


@pytest.mark.parametrize("frames", [Script().text("a").frames, [*Script().frames, sse("", "[DONE]")], []])
async def test_a_stream_without_a_reason_was_cut(fake: FakeServer, model: OpenAIChatModel, frames: list[bytes]) -> None:
    fake.script.append(Reply(frames))
    assert (await refused(model)).retryable


@pytest.mark.parametrize(
    "data", ["{not json", "5", "{}", '{"choices": [5]}', '{"choices": [{"delta": {"content": 5}}]}']
)
async def test_malformed(fake: FakeServer, model: OpenAIChatModel, data: str) -> None:
    fake.script.append(Reply([*Script().frames, sse("", data)]))
    assert (await refused(model)).retryable


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"message": "x", "code": 429, "type": "y"}, "rate_limit_exceeded", True),
        ({"message": "x", "type": "rate_limit_error"}, "rate_limit_exceeded", True),
        ({"message": "x", "code": 400}, "invalid_prompt", False),
        ("overloaded", "server_error", True),
    ],
)
async def test_error_in_the_stream(
    fake: FakeServer, model: OpenAIChatModel, error: Any, code: str, retryable: bool
) -> None:
    fake.script.append(Reply([*Script().frames, sse("", {"error": error})]))
    told = await refused(model)
    assert (told.code, told.retryable, told.refused) == (code, retryable, False)


async def test_rate_limit_says_when(fake: FakeServer, model: OpenAIChatModel) -> None:
    fake.script.append(failure(429, "rate_limit_exceeded", "slow down", retry_after="7"))
    error = await refused(model)
    assert (error.code, error.retry_after_s, error.refused) == ("rate_limit_exceeded", 7, True)


def test_options() -> None:
    schema = {"type": "object"}
    request = ModelRequest(
        REQUEST.items,
        instructions="Be brief.",
        tools=[ToolSpec("t", "does", schema), ToolSpec("u", "does", schema, strict=True)],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "u"}]},
        parallel_tool_calls=False,
        max_output_tokens=7,
        temperature=0.0,
        text_format={"type": "json_schema", "name": "n", "schema": schema},
        reasoning={"effort": "low"},
    )
    params = parameters("m", request)
    assert params["messages"][0] == {"role": "system", "content": "Be brief."}
    function = {"name": "u", "description": "does", "parameters": schema, "strict": True}
    assert params["tools"] == [{"type": "function", "function": function}]
    assert (params["tool_choice"], params["parallel_tool_calls"], params["max_tokens"]) == ("required", False, 7)
    assert params["response_format"] == {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert params["reasoning_effort"] == "low"


def test_history() -> None:
    """Calls and their outputs as pairs, images in their shape, what cannot be shown as a text."""
    image = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
    items = [
        Item.of({"id": "u", "type": "message", "role": "developer", "content": "rules"}),
        Item.of(
            {"id": "u", "type": "message", "role": "user", "content": [image, {"type": "input_text", "text": "q"}]}
        ),
        Item.of(
            {"id": f"rs_{RUN}0", "type": "reasoning", "summary": []}, {"step": 0, "provider": "openai", "data": {}}
        ),
        Item.of({"id": f"mcp_{RUN}1", "type": "mcp_call", "name": "t", "arguments": "{}", "error": "no"}, {"step": 0}),
        Item.of({"id": "u", "type": "message", "role": "user", "content": [{"type": "input_image", "file_id": "f"}]}),
        Item.of({"id": f"msg_{RUN}2", "type": "message", "role": "assistant", "content": "a"}, {"step": 1}),
    ]
    call_id = f"call_mcp_{RUN}1"
    function = {"name": "t", "arguments": "{}"}
    assert messages(items) == [
        {"role": "system", "content": "rules"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                {"type": "text", "text": "q"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": "Error: no"},
        {"role": "user", "content": "[image cannot be shown]"},
        {"role": "assistant", "content": "a"},
    ]
