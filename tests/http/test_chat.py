"""`/v1/chat/completions` with the official openai client, unmodified, in strict mode and without retries."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import openai
import orjson
import pytest
import redis
from openai import AsyncOpenAI

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import strict
from tests.http.wire import rows, unique


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    env = {"AGENTRT_DEMO_DB": str(tmp_path_factory.mktemp("chat") / "demo.db"), "AGENTRT_ALONE_TTL_S": "7200"}
    with Pod(redis_server.url, name="chat", target="tests.harness.client_agents:agents", env=env) as pod:
        yield pod


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[AsyncOpenAI]:
    async with strict(pod) as client:
        yield client


@pytest.fixture
async def demo(pods: list[Pod]) -> AsyncIterator[AsyncOpenAI]:
    async with strict(pods[0]) as client:
        yield client


def said(*texts: str) -> Any:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "time")
]


async def test_a_completion_has_all_its_parts(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(model="echo", messages=said("hello"))
    assert made.id.startswith("chatcmpl-")
    assert (made.object, made.model) == ("chat.completion", "echo")
    choice = made.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "echo: hello", "stop")
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0


async def test_the_history_is_what_the_request_brings(demo: AsyncOpenAI) -> None:
    told = said("my name is Ada", "Nice to meet you, Ada.", "what is my name")
    knows = await demo.chat.completions.create(model="support", messages=told)
    assert knows.choices[0].message.content == "Your name is Ada."
    nothing = await demo.chat.completions.create(model="support", messages=said("what is my name"))
    assert "do not know" in str(nothing.choices[0].message.content)


async def test_chunks_add_up_to_the_completion(demo: AsyncOpenAI) -> None:
    ask: Any = {"model": "support", "messages": said("count to 30")}
    plain = await demo.chat.completions.create(**ask)
    chunks = [chunk async for chunk in await demo.chat.completions.create(**ask, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 30


async def test_the_usage_comes_behind_the_last_chunk_if_wanted(client: AsyncOpenAI) -> None:
    ask: Any = {"model": "mirror", "messages": said("hello"), "stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await client.chat.completions.create(**ask)]
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (100, 10)
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 60
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_stream_helper_of_the_client_understands_it(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="caller", messages=said("Rome"), tools=TOOLS) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls or ()] == ["weather", "time"]
    assert final.choices[0].finish_reason == "tool_calls"
    assert any(event.type == "content.delta" for event in events)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_of_the_runtime_run_inside(demo: AsyncOpenAI, stream: bool) -> None:
    ask: Any = {"model": "support", "messages": said("look up order A1"), "stream": stream}
    made = await demo.chat.completions.create(**ask)
    if stream:
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in made])
    else:
        assert made.choices[0].message.tool_calls is None
        text = made.choices[0].message.content
    assert text.startswith("Done, get_order says: ")


async def test_tools_of_the_client_come_back_with_their_outputs(client: AsyncOpenAI) -> None:
    messages = said("Rome")
    first = await client.chat.completions.create(model="caller", messages=messages, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see."
    assert [(call.function.name, orjson.loads(call.function.arguments)) for call in message.tool_calls] == [
        ("weather", {"city": "Rome"}),
        ("time", {"city": "Rome"}),
    ]
    messages.append(message.model_dump(exclude_none=True))
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} is fine"}
        for call in message.tool_calls
    ]
    second = await client.chat.completions.create(model="caller", messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "They said: weather is fine, time is fine"
    assert second.choices[0].finish_reason == "stop"


async def test_every_kind_of_message_reaches_the_model(client: AsyncOpenAI) -> None:
    png = "data:image/png;base64,iVBORw0KGgo="
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Very."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": png, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
            ],
        },
        {"role": "assistant", "content": None, "refusal": "I cannot."},
        {"role": "user", "content": "why"},
    ]
    made = await client.chat.completions.create(
        model="mirror",
        messages=messages,
        max_tokens=7,
        temperature=0.5,
        reasoning_effort="low",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "time"}},
    )
    seen = orjson.loads(str(made.choices[0].message.content))
    assert [item["role"] for item in seen["items"]] == ["system", "developer", "user", "assistant", "user"]
    assert seen["items"][2]["content"][1:] == [
        {"type": "input_image", "image_url": png, "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    ]
    assert seen["items"][3]["content"] == [{"type": "refusal", "refusal": "I cannot."}]
    assert (seen["max_output_tokens"], seen["temperature"], seen["reasoning"]) == (7, 0.5, {"effort": "low"})
    assert seen["text_format"] == {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    assert seen["tool_choice"] == {"type": "function", "name": "time", "strict": False}
    assert seen["instructions"] == "Be a mirror."


async def test_the_same_key_is_one_run_and_another_body_is_refused(demo: AsyncOpenAI, sink: Any) -> None:
    ticket, key = unique("printer"), {"Idempotency-Key": unique("key")}
    ask: Any = {"model": "support", "messages": said(f"open a ticket: {ticket}"), "extra_headers": key}
    together = await asyncio.gather(*(demo.chat.completions.create(**ask) for _ in range(5)))
    again = [chunk async for chunk in await demo.chat.completions.create(**ask, stream=True)]
    assert {made.id for made in together} == {again[0].id}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in again)
    assert {made.choices[0].message.content for made in together} == {text}
    assert len(rows(sink, ticket)) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        await demo.chat.completions.create(**{**ask, "messages": said("something else")})


async def test_nothing_of_it_can_be_named_or_stays(client: AsyncOpenAI, store: redis.Redis) -> None:
    made = await client.chat.completions.create(model="echo", messages=said(unique("secret")))
    ids = made.id.removeprefix("chatcmpl-")
    conversation = f"conv_{ids[:22]}"
    for wrong in (
        lambda: client.responses.retrieve(f"resp_{ids}"),
        lambda: client.responses.input_items.list(f"resp_{ids}"),
        lambda: client.conversations.retrieve(conversation),
        lambda: client.conversations.items.list(conversation),
        lambda: client.conversations.items.retrieve(f"msg_{ids[22:]}0", conversation_id=conversation),
        lambda: client.conversations.items.create(conversation, items=[{"role": "user", "content": "x"}]),
        lambda: client.responses.create(model="echo", input="x", conversation=conversation),
        lambda: client.responses.create(model="echo", input="x", previous_response_id=f"resp_{ids}"),
    ):
        with pytest.raises(openai.NotFoundError):
            await wrong()
    keys = list(store.scan_iter(f"*{ids[:22]}*"))
    assert keys
    assert all(0 < store.ttl(key) <= 7200 for key in keys)


async def test_a_call_that_wants_an_approval_is_not_made(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(model="worker", messages=said("pay"))
    assert "not approved" in str(made.choices[0].message.content)


async def test_a_reply_that_fails_is_an_error(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="broken", messages=said("now"))
    assert limited.value.response.headers["retry-after"] == "30"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="broken", messages=said("refuse"))
    assert refused.value.code == "invalid_prompt"
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="broken", messages=said("now"), stream=True)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="broken", messages=said("refuse"), stream=True)
    stream = await client.chat.completions.create(model="broken", messages=said("text"), stream=True)
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    with pytest.raises(openai.APIError, match="too many"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_what_failed_for_good_is_not_sent_again(pod: Pod, stream: bool) -> None:
    """By the client's own retries, without a key: what was done for it before it failed would be done again."""

    def done() -> int:
        with closing(sqlite3.connect(pod._env["AGENTRT_DEMO_DB"])) as world:
            if not world.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone():
                return 0
            return int(world.execute("SELECT count(*) FROM effects").fetchone()[0])

    before = done()
    async with AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="k") as client:
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="refusing", messages=said("go"), stream=stream)
    assert (failed.value.status_code, failed.value.response.headers["x-should-retry"]) == (500, "false")
    assert done() == before + 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages[0].call_id"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"n": 2}, "n"),
        ({"n": []}, "n"),
        ({"n": {}}, "n"),
        ({"response_format": {"type": []}}, "response_format"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": 1}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [1]}}}, "tool_choice"),
        ({"stop": ["x"]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].name"),
    ],
)
async def test_what_cannot_be_understood_is_named(client: AsyncOpenAI, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.post("/chat/completions", cast_to=object, body={"model": "echo", "messages": said("x"), **body})
    assert wrong.value.param == param
