"""The OpenAI adapter against a fake server that speaks the real wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator

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
from agentrt.models.openai import OpenAIModel
from agentrt.records import Usage
from tests.models.asking import KEY, PROMPT, REQUEST, STATUSES, collect, refused
from tests.models.fake_openai import Script, failure, fake_openai
from tests.models.fake_server import FakeServer, serve

USAGE = Usage(100, 20, 64, 8)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with serve(fake_openai) as server:
        yield server


@pytest.fixture
async def model(fake: FakeServer) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel("gpt-test", api_key=KEY, base_url=f"{fake.url}/v1", timeout_s=5.0)
    yield model
    await model.aclose()


async def test_text_and_usage(fake: FakeServer, model: OpenAIModel) -> None:
    fake.script.append(Script().text("Hel", "", "lo").completed())
    assert await collect(model) == [TextDelta("Hel"), TextDelta("lo"), Finished("stop", USAGE)]
    body = fake.seen[0].body
    assert body == {
        "model": "gpt-test",
        "stream": True,
        "store": False,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": PROMPT}]}],
    }


async def test_reasoning_then_parallel_calls(fake: FakeServer, model: OpenAIModel) -> None:
    script = Script().reasoning("hm", "gAAA").call("c1", "a", '{"x": 1}').call("c2", "b", "")
    fake.script.append(script.completed())
    assert await collect(model) == [
        ReasoningDone(
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"data": {"id": "rs_fake", "encrypted_content": "gAAA"}},
        ),
        ToolCall("c1", "a", '{"x": 1}'),
        ToolCall("c2", "b", "{}"),
        Finished("tool_calls", USAGE),
    ]


async def test_refusal(fake: FakeServer, model: OpenAIModel) -> None:
    fake.script.append(Script().refusal("I ", "won't").completed())
    assert await collect(model) == [RefusalDelta("I "), RefusalDelta("won't"), Finished("stop", USAGE)]


@pytest.mark.parametrize(("reason", "said"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
async def test_incomplete_drops_cut_calls(fake: FakeServer, model: OpenAIModel, reason: str, said: str) -> None:
    script = Script().text("a").call("c1", "t", '{"x', status="incomplete")
    fake.script.append(script.incomplete(reason))
    assert await collect(model) == [TextDelta("a"), Finished(said, USAGE)]


async def test_all_options_are_sent(fake: FakeServer, model: OpenAIModel) -> None:
    fake.script.append(Script().completed())
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    request = ModelRequest(
        REQUEST.items,
        instructions="Be brief.",
        tools=[ToolSpec("t", "does", schema)],
        tool_choice={"type": "mcp", "server_label": "agent", "name": "t"},
        parallel_tool_calls=False,
        max_output_tokens=70,
        temperature=0.0,
        top_p=0.5,
        text_format={"type": "json_object"},
        reasoning={"effort": "low"},
        cache_key="s1",
    )
    await collect(model, request)
    body = fake.seen[0].body
    assert body["instructions"] == "Be brief."
    assert body["tools"][0]["parameters"] == schema
    assert b'"properties":{"z":{},"a":{}}' in fake.seen[0].raw.replace(b" ", b"")
    assert body["tool_choice"] == {"type": "function", "name": "t"}
    assert body["parallel_tool_calls"] is False
    assert (body["max_output_tokens"], body["temperature"], body["top_p"]) == (70, 0.0, 0.5)
    assert body["text"] == {"format": {"type": "json_object"}}
    assert body["reasoning"] == {"effort": "low"}
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["prompt_cache_key"] == "s1"


@pytest.mark.parametrize(("status", "code", "retryable"), STATUSES)
async def test_status(fake: FakeServer, model: OpenAIModel, status: int, code: str, retryable: bool) -> None:
    fake.script.append(failure(status, "some_code", f"bad: {PROMPT} {KEY}"))
    error = await refused(model)
    assert (error.code, error.retryable) == (code, retryable)
    assert all(told in str(error) for told in (str(status), "some_code", "req_1")), error
    assert len(fake.seen) == 1  # the SDK does not retry


async def test_rate_limit_says_when(fake: FakeServer, model: OpenAIModel) -> None:
    fake.script.append(failure(429, "rate_limit_exceeded", "slow down", retry_after="7"))
    error = await refused(model)
    assert (error.code, error.retryable, error.retry_after_s) == ("rate_limit_exceeded", True, 7.0)


@pytest.mark.parametrize(
    ("code", "said", "retryable"),
    [
        ("rate_limit_exceeded", "rate_limit_exceeded", True),
        ("server_error", "server_error", True),
        ("invalid_prompt", "invalid_prompt", False),
        ("image_content_policy_violation", "invalid_prompt", False),
    ],
)
@pytest.mark.parametrize("how", ["failed", "error"])
async def test_error_in_the_stream(
    fake: FakeServer, model: OpenAIModel, how: str, code: str, said: str, retryable: bool
) -> None:
    fake.script.append(getattr(Script().text("a"), how)(code, f"{PROMPT} {KEY}"))
    error = await refused(model)
    assert (error.code, error.retryable) == (said, retryable)


@pytest.mark.parametrize(
    "data", ["{not json", "5", "[]", "null", '"x"', "{}", '{"type": "response.output_text.delta"}']
)
async def test_malformed_event(fake: FakeServer, model: OpenAIModel, data: str) -> None:
    fake.script.append(Script().malformed(data))
    error = await refused(model)
    assert (error.code, error.retryable) == ("server_error", True)
