"""`item_reference`: a history by ids, as the AI SDK sends it, on a pod that never saw it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import strict
from tests.http.wire import UNKNOWN, unique

CITY: Any = [{"type": "function", "name": "weather", "strict": False, "parameters": {"type": "object"}}]


@pytest.fixture(scope="module")
def pods(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pod]]:
    env = {"AGENTRT_DEMO_DB": str(tmp_path_factory.mktemp("references") / "demo.db")}
    target = "tests.harness.client_agents:agents"
    with (
        Pod(redis_server.url, name="ref-a", target=target, env=env) as a,
        Pod(redis_server.url, name="ref-b", target=target, env=env) as b,
    ):
        yield [a, b]


@pytest.fixture
async def clients(pods: list[Pod]) -> AsyncIterator[list[AsyncOpenAI]]:
    made = [strict(pod) for pod in pods]
    yield made
    for client in made:
        await client.close()


def references(response: Any) -> list[Any]:
    return [{"type": "item_reference", "id": item.id} for item in response.output]


async def seen(client: AsyncOpenAI, items: Any, **more: Any) -> Any:
    made = await client.responses.create(model="mirror", input=items, **more)
    return orjson.loads(made.output_text)["items"]


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "by key"])
async def test_a_tool_loop_by_references_on_another_pod(clients: list[AsyncOpenAI], keyed: bool) -> None:
    a, b = clients
    headers = {"Idempotency-Key": unique("loop")} if keyed else {}
    first = await a.responses.create(model="caller", input="Rome", tools=CITY, extra_headers=headers)
    call: Any = first.output[-1]
    loop: Any = [{"role": "user", "content": "Rome"}, *references(first)]
    loop += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    second = await b.responses.create(model="caller", input=loop, tools=CITY)
    assert second.output_text == "They said: sunny"
    items = await seen(a, [*loop[:-1], {"id": second.output[0].id}])
    assert [item["type"] for item in items] == ["message", "message", "function_call", "message"]
    assert items[2]["arguments"] == call.arguments


async def test_thoughts_are_referred_to_with_what_their_provider_needs(clients: list[AsyncOpenAI]) -> None:
    a, b = clients
    first = await a.responses.create(model="thinker", input="well?")
    again = await b.responses.create(model="thinker", input=[*references(first), {"role": "user", "content": "so?"}])
    assert orjson.loads(again.output_text) == [{"provider": "scripted", "data": {"signature": "s-1"}}]


async def test_items_of_a_conversation_and_of_a_fork_are_found(clients: list[AsyncOpenAI]) -> None:
    a, b = clients
    first = await a.responses.create(model="echo", input="one")
    second = await b.responses.create(model="echo", input="two", previous_response_id=first.id)
    fork = await b.responses.create(model="echo", input="three", previous_response_id=first.id)
    loop: Any = [*references(second), *references(fork), {"role": "user", "content": "x"}]
    items = await seen(a, loop, previous_response_id=first.id)
    assert [item["content"][0]["text"] for item in items[-3:]] == ["echo: two", "echo: three", "x"]


async def test_what_is_not_there_is_named(clients: list[AsyncOpenAI]) -> None:
    a, b = clients
    unstored = await a.responses.create(model="echo", input="x", store=False)
    kept = await a.responses.create(model="echo", input="x")
    wrong = [
        unstored.output[0].id,
        f"msg_{UNKNOWN}1",
        "msg_1",
        kept.output[0].id[:-1] + "9",
        "fc" + kept.output[0].id[3:],
    ]
    for identifier in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            await seen(b, [{"role": "user", "content": "x"}, {"type": "item_reference", "id": identifier}])
        assert (refused.value.code, refused.value.param) == ("not_found", "input[1].id")
    for identifier in (7, None):
        with pytest.raises(openai.BadRequestError):
            await seen(b, [{"type": "item_reference", "id": identifier}])
    with pytest.raises(openai.BadRequestError):
        await b.conversations.create(items=[{"type": "item_reference", "id": kept.output[0].id}])
