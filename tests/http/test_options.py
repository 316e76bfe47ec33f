"""What a request may ask of its run beside the input, and that it reaches the model, or the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import orjson
import pytest
import redis
from openai import AsyncOpenAI

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import strict
from tests.http.wire import unique


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    env = {"AGENTRT_DEMO_DB": str(tmp_path_factory.mktemp("options") / "demo.db")}
    with Pod(redis_server.url, name="options", target="tests.harness.client_agents:agents", env=env) as pod:
        yield pod


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[AsyncOpenAI]:
    async with strict(pod) as client:
        yield client


async def seen(client: AsyncOpenAI, **body: Any) -> dict[str, Any]:
    """What reached the model."""
    made = await client.responses.create(model="mirror", **{"input": "hi", **body})
    assert made.status == "completed"
    return dict(orjson.loads(made.output_text))


def reasoning(made: Any) -> list[Any]:
    return [item for item in made.output if item.type == "reasoning"]


async def test_a_schema_and_options_of_the_request_reach_the_model(client: AsyncOpenAI) -> None:
    wanted: Any = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    got = await seen(
        client,
        text={"format": wanted},
        instructions="Answer in rhymes.",
        reasoning={"effort": "high"},
        max_output_tokens=77,
        temperature=0.1,
    )
    assert got["text_format"] == wanted
    assert got["instructions"] == "Be a mirror.\n\nAnswer in rhymes."
    assert (got["reasoning"], got["max_output_tokens"], got["temperature"]) == ({"effort": "high"}, 77, 0.1)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"include": "all"}, "include"),
        ({"include": [1]}, "include"),
        ({"truncation": "some"}, "truncation"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"background": True, "store": False}, "background"),
        ({"input": [{"type": "reasoning", "summary": [[None]]}]}, "input[0].summary"),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "input[0].content"),
        ({"input": [{"type": "reasoning", "encrypted_content": 1}]}, "input[0].encrypted_content"),
        (
            {"input": [{"type": "mcp_approval_response", "approval_request_id": "x", "approve": True, "status": []}]},
            None,
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": 1}]}]}, None),
    ],
)
async def test_what_cannot_be_asked_is_named(client: AsyncOpenAI, wrong: Any, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/responses", cast_to=object, body={"model": "echo", "input": "x", **wrong})
    assert param is None or refused.value.param == param


async def test_images_and_files_are_passed_on_and_kept(client: AsyncOpenAI) -> None:
    parts: Any = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "https://pictures.test/a.png", "detail": "high"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000, "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_file", "file_url": "https://files.test/b.pdf"},
    ]
    said: Any = {"role": "user", "content": parts}
    assert (await seen(client, input=[said]))["items"][-1]["content"] == parts
    conversation = (await client.conversations.create(items=[said])).id
    assert (await seen(client, conversation=conversation))["items"][0]["content"] == parts
    with pytest.raises(openai.BadRequestError) as too_long:
        await seen(client, input=[{"role": "user", "content": [{**parts[2], "image_url": "d" * 300_000}]}])
    assert too_long.value.code == "item_too_large"


async def test_reasoning_goes_back_to_the_provider_that_made_it(client: AsyncOpenAI) -> None:
    """In a conversation by itself; without one, by the client, sealed."""
    conversation = (await client.conversations.create()).id
    ask: Any = {"model": "thinker", "input": "well?"}
    first = await client.responses.create(**ask, conversation=conversation)
    assert reasoning(first)[0].encrypted_content is None
    second = await client.responses.create(**ask, conversation=conversation)
    assert [private["data"] for private in orjson.loads(second.output_text)] == [{"signature": "s-1"}]

    ask.update(store=False, include=["reasoning.encrypted_content"])
    alone = await client.responses.create(**ask)
    sealed = reasoning(alone)[0]
    assert sealed.encrypted_content
    carried = [sealed.model_dump(exclude_none=True), {"role": "user", "content": "well?"}]
    back = await client.responses.create(**{**ask, "input": carried})
    assert orjson.loads(back.output_text) == [{"provider": "scripted", "data": {"signature": "s-1"}}]
    for torn in ("agentrt1.e30=", "agentrt1.!", "somebody else's", sealed.encrypted_content[:-9]):
        carried[0]["encrypted_content"] = torn
        ignored = await client.responses.create(**{**ask, "input": carried})
        assert orjson.loads(ignored.output_text) == [{}]


async def test_no_more_calls_than_the_request_allows(client: AsyncOpenAI) -> None:
    """A strict client: it takes a failed call as well."""
    made = await client.responses.create(model="endless", input="go", max_tool_calls=4)
    calls: Any = [item for item in made.output if item.type == "mcp_call"]
    assert [call.status for call in calls] == ["completed"] * 4 + ["failed"] * 2
    assert "no more calls are allowed" in calls[-1].output
    assert made.status == "completed"
    assert made.output_text == "no calls are left"


async def test_the_output_of_all_steps_together_is_bounded(client: AsyncOpenAI) -> None:
    """`endless` writes a token a step."""
    made = await client.responses.create(model="endless", input="go", max_output_tokens=3)
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.usage is not None
    assert made.usage.output_tokens == 3


async def test_input_that_is_too_long_is_cut_only_if_wanted(client: AsyncOpenAI) -> None:
    long: Any = [{"role": "user", "content": f"{number} " + "word " * 5000} for number in range(12)]
    refused = await client.responses.create(model="mirror", input=long)
    assert refused.status == "failed"
    assert refused.error is not None
    assert refused.error.code == "invalid_prompt"
    got = await seen(client, input=long, truncation="auto")
    firsts = [item["content"][0]["text"].split()[0] for item in got["items"]]
    assert firsts == [str(number) for number in range(12 - len(firsts), 12)]
    assert 0 < len(firsts) < 12


async def test_an_unstored_response_can_be_neither_named_nor_continued(client: AsyncOpenAI, store: redis.Redis) -> None:
    made = await client.responses.create(model="echo", input=unique("hello"), store=False)
    session = made.id.removeprefix("resp_")[:22]
    for wrong in (
        lambda: client.responses.retrieve(made.id),
        lambda: client.responses.cancel(made.id),
        lambda: client.responses.delete(made.id),
        lambda: client.conversations.retrieve(f"conv_{session}"),
        lambda: client.conversations.items.list(f"conv_{session}"),
        lambda: client.responses.create(model="echo", input="x", previous_response_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await wrong()
    keys = list(store.scan_iter(f"*{session}*"))
    assert keys
    assert all(0 < store.ttl(key) <= 86_400 for key in keys)


async def test_an_unstored_response_is_part_of_the_conversation_that_it_names(client: AsyncOpenAI) -> None:
    conversation = (await client.conversations.create()).id
    made = await client.responses.create(model="echo", input="hello", store=False, conversation=conversation)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    assert len((await client.conversations.items.list(conversation)).data) == 2
