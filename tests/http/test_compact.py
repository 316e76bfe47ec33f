"""`/v1/responses/compact`: one item stands for a conversation, and the model is asked for nothing but notes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from agentrt.records import seal, unseal
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.conversations import Conversations
from agentrt.store.keys import SessionKeys, UserKeys, new_id
from agentrt.store.ownership import StoreConfig
from agentrt.store.users import Users
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import strict
from tests.http.wire import unique

HISTORY: Any = [
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Noted.", "phase": "final_answer"},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compact") / "demo.db"


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, world: Path) -> Iterator[Pod]:
    env = {"AGENTRT_DEMO_DB": str(world)}
    with Pod(redis_server.url, name="compact", target="tests.harness.client_agents:agents", env=env) as pod:
        yield pod


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[AsyncOpenAI]:
    async with strict(pod) as client:
        yield client


def notes(made: Any) -> str:
    """What the model wrote, in the one item."""
    (item,) = made.output
    assert (made.object, item.type) == ("response.compaction", "compaction")
    return str(unseal(item.encrypted_content)["data"]["summary"])


async def test_the_model_sees_the_conversation_and_is_asked_for_notes(client: AsyncOpenAI) -> None:
    made = await client.responses.compact(model="mirror", input=HISTORY, instructions="Mind the dates.")
    seen = orjson.loads(notes(made))
    texts = [item["content"][0]["text"] for item in seen["items"]]
    assert texts[:2] == ["We launch on Tuesday.", "Noted."]
    assert seen["items"][1]["phase"] == "final_answer"
    assert len(texts) == 3 and "notes" in texts[2]
    assert seen["tool_choice"] == "none"
    assert seen["instructions"] == "Be a mirror.\n\nMind the dates."
    assert made.usage.total_tokens == 110


async def test_the_item_goes_into_the_next_request_and_stands_in_the_conversation(client: AsyncOpenAI) -> None:
    short = await client.responses.compact(model="echo", input=HISTORY)
    carried: Any = [short.output[0].model_dump(exclude_none=True), {"role": "user", "content": "go on"}]
    conversation = (await client.conversations.create()).id
    asked = await client.responses.create(model="mirror", input=carried, conversation=conversation)
    first = orjson.loads(asked.output_text)["items"][0]
    assert first["type"] == "compaction"
    assert first["private"] == {"provider": "agentrt", "data": {"summary": notes(short)}}
    listed = await client.conversations.items.list(conversation, order="asc")
    assert listed.data[0].type == "compaction"


async def test_what_a_response_ends_is_compacted_and_no_tool_is_called(client: AsyncOpenAI, world: Path) -> None:
    first = await client.responses.create(model="worker", input="note")
    with sqlite3.connect(world) as db:
        before = db.execute("select count(*) from effects").fetchone()
    with pytest.raises(openai.UnprocessableEntityError):  # the worker's script calls tools whether it may or not
        await client.responses.compact(model="worker", previous_response_id=first.id, input="note note")
    seen = await client.responses.compact(model="mirror", previous_response_id=first.id, input="and then?")
    with sqlite3.connect(world) as db:
        assert db.execute("select count(*) from effects").fetchone() == before
    kinds = [item["type"] for item in orjson.loads(notes(seen))["items"]]
    assert kinds == ["message", "mcp_call", "message", "message", "message"]
    following = await client.responses.create(model="worker", input="read", previous_response_id=first.id)
    items = await client.conversations.items.list(f"conv_{following.id[5:27]}")
    assert len(items.data) == 6, "nothing of it was left in the conversation"


async def test_the_same_key_is_the_same_compaction_and_not_a_response(client: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": unique("compact")}
    one, two = [await client.responses.compact(model="echo", input=HISTORY, extra_headers=key) for _ in range(2)]
    assert one == two
    with pytest.raises(openai.UnprocessableEntityError):
        await client.responses.create(model="echo", input=HISTORY, extra_headers=key)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(one.id)


@pytest.mark.parametrize(
    ("wrong", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"previous_response_id": 7}, 400, "previous_response_id"),
        ({"previous_response_id": "resp_" + "0" * 44}, 404, "previous_response_id"),
        ({"model": "nobody", "input": "x"}, 404, "model"),
        ({"input": "x", "instructions": 1}, 400, "instructions"),
        ({"model": "broken", "input": "refuse"}, 429, None),
    ],
)
async def test_what_cannot_be_compacted_is_named(
    client: AsyncOpenAI, wrong: Any, status: int, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client.post("/responses/compact", cast_to=object, body={"model": "echo", **wrong})
    assert (refused.value.status_code, refused.value.param) == (status, param)


@pytest.mark.parametrize(
    "sealed", ["", "gAAAA", seal("openai", {"summary": "x"}), seal("agentrt", {"summary": 1})], ids=str
)
async def test_a_compaction_of_somebody_elses_is_refused(client: AsyncOpenAI, sealed: str) -> None:
    carried: Any = [{"type": "compaction", "encrypted_content": sealed}, {"role": "user", "content": "go on"}]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="echo", input=carried)
    assert refused.value.param == "input[0].encrypted_content"


async def test_who_was_erased_is_copied_by_nobody(client: AsyncOpenAI, pod: Pod, redis_server: RedisServer) -> None:
    """The erasure has begun, and has not come to the conversation yet: neither a fork nor notes of it outlive it."""
    user = UserKeys("dev", new_id())
    first = await client.responses.create(model="echo", input="my secret", user=user.user)
    await client.responses.create(model="echo", input="more", previous_response_id=first.id)
    store = Redis(RedisOptions(redis_server.url))
    await store.start()
    users = Users(store, StoreConfig("test"), 86_400)
    await users.erase(user, new_id(), 3600)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="echo", input="and", previous_response_id=first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.compact(model="mirror", previous_response_id=first.id)
    conversations = Conversations(store, StoreConfig("test"))
    alive = [one for one in await users.sessions(user) if await conversations.header(SessionKeys("dev", one))]
    assert len(alive) == 1, "the one that the erasure is about to remove"
    await store.aclose()


async def test_what_is_forked_stays_its_users(client: AsyncOpenAI, redis_server: RedisServer) -> None:
    """Whoever the request names: an erasure of the first must find it, and no memory of another gets it."""
    owner, other = new_id(), new_id()
    first = await client.responses.create(model="echo", input="hello", user=owner)
    await client.responses.create(model="echo", input="more", previous_response_id=first.id)
    fork = await client.responses.create(model="echo", input="else", previous_response_id=first.id, user=other)
    store = Redis(RedisOptions(redis_server.url))
    await store.start()
    header = await Conversations(store, StoreConfig("test")).header(SessionKeys("dev", fork.id[5:27]))
    await store.aclose()
    assert header is not None and header.user == owner
