"""The official openai client, sync and async, in strict mode and without retries: every answer validates."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.harness.pod import Pod
from tests.http.conftest import NO_TLS
from tests.http.wire import UNKNOWN, conversation_of, unique

Client = OpenAI | AsyncOpenAI

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather somewhere.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a method of either client."""
    result = await asyncio.to_thread(function, *args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def drain(stream: Any) -> list[Any]:
    """All events of a stream, or all entries of all pages."""
    if hasattr(stream, "__aiter__"):
        return [entry async for entry in stream]
    return await asyncio.to_thread(list, stream)


async def helped(client: Client, **kwargs: Any) -> tuple[list[Any], Any]:
    """The events that the `responses.stream` helper gives, and its final response."""
    if isinstance(client, AsyncOpenAI):
        async with client.responses.stream(**kwargs) as stream:
            return [event async for event in stream], await stream.get_final_response()

    def blocking() -> tuple[list[Any], Any]:
        with client.responses.stream(**kwargs) as stream:
            return list(stream), stream.get_final_response()

    return await asyncio.to_thread(blocking)


async def ask(client: Client, said: str, /, **kwargs: Any) -> Any:
    """One turn of the support agent."""
    return await call(client.responses.create, model="support", input=said, **kwargs)


@pytest.fixture(params=["sync", "async"])
async def clients(request: pytest.FixtureRequest, pods: list[Pod]) -> AsyncIterator[list[Client]]:
    """A client of each pod."""
    kind: Any = OpenAI if request.param == "sync" else AsyncOpenAI
    http: Any = openai.DefaultHttpxClient if request.param == "sync" else openai.DefaultAsyncHttpxClient
    made = [
        kind(
            base_url=f"{pod.url}/v1",
            api_key="any",
            max_retries=0,
            timeout=30,
            http_client=http(verify=NO_TLS),
            _strict_response_validation=True,
        )
        for pod in pods
    ]
    yield made
    for client in made:
        await call(client.close)


@pytest.fixture
def a(clients: list[Client]) -> Client:
    return clients[0]


@pytest.fixture
def b(clients: list[Client]) -> Client:
    return clients[1]


async def test_a_plain_turn_validates_and_can_be_retrieved_from_the_other_pod(a: Client, b: Client) -> None:
    made = await ask(a, "look up order A1", metadata={"ticket": "7"}, temperature=0.5)
    assert made.status == "completed"
    assert [item.type for item in made.output] == ["mcp_call", "message"]
    assert (made.metadata, made.temperature) == ({"ticket": "7"}, 0.5)
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens > 0
    assert await call(b.responses.retrieve, made.id) == made


async def test_a_streamed_turn_validates_and_ends_with_what_retrieve_gives(a: Client, b: Client) -> None:
    events = await drain(await ask(a, "refund order A7 300", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text != ""
    assert await call(b.responses.retrieve, events[-1].response.id) == events[-1].response


@pytest.mark.parametrize("said", ["count to 12", "look up order A1"])
async def test_the_stream_helper_gathers_the_final_response(a: Client, b: Client, said: str) -> None:
    events, final = await helped(a, model="support", input=said)
    assert events[0].type == "response.created"
    assert final.status == "completed"
    stored = await call(b.responses.retrieve, final.id)
    assert final.output_text == stored.output_text != ""
    assert [item.id for item in final.output] == [item.id for item in stored.output]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_stream_resumes_after_every_number_on_the_other_pod(a: Client, b: Client, streamed: bool) -> None:
    if streamed:
        response_id = (await drain(await ask(a, "look up order B2", stream=True)))[-1].response.id
    else:
        response_id = (await ask(a, "look up order B2")).id
    whole = await drain(await call(b.responses.retrieve, response_id, stream=True))
    assert len(whole) > 8
    for number, event in enumerate(whole):
        resumed = await call(b.responses.retrieve, response_id, stream=True, starting_after=event.sequence_number)
        assert await drain(resumed) == whole[number + 1 :]


async def test_the_stream_helper_follows_a_response_by_its_id(a: Client, b: Client) -> None:
    made = await ask(a, "count to 5")
    events, final = await helped(b, response_id=made.id)
    assert events[0].type == "response.created"
    assert final.output_text == made.output_text


async def test_input_items_page_in_both_orders(a: Client, b: Client) -> None:
    texts = ["one", "two", "three"]
    sent: Any = [{"role": "user", "content": text} for text in texts]
    made = await call(a.responses.create, model="echo", input=sent)
    listing = b.responses.input_items.list

    async def said(**options: Any) -> list[str]:
        return [item.content[0].text for item in await drain(await call(listing, made.id, **options))]

    assert await said() == texts[::-1]
    assert await said(order="asc") == texts
    assert await said(order="asc", limit=1) == texts  # three pages, fetched by the client itself
    assert await said(order="desc", limit=2) == texts[::-1]
    first = await call(listing, made.id, order="asc", limit=1)
    assert (first.has_more, len(first.data)) == (True, 1)
    assert await said(order="asc", after=first.data[0].id) == texts[1:]
    assert await said(order="desc", after=first.data[0].id) == []


async def test_a_deleted_response_is_gone_and_its_items_stay(a: Client, b: Client) -> None:
    conversation = await call(a.conversations.create)
    made = await ask(a, "hello", conversation=conversation.id)
    await call(a.responses.delete, made.id)
    for again in (b.responses.retrieve, b.responses.delete, b.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            await call(again, made.id)
    assert len(await drain(await call(b.conversations.items.list, conversation.id))) == 2


async def test_a_completed_response_cannot_be_cancelled(a: Client, b: Client) -> None:
    made = await ask(a, "hello")
    with pytest.raises(openai.BadRequestError) as refused:
        await call(b.responses.cancel, made.id)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (await call(b.responses.retrieve, made.id)).status == "completed"


async def test_a_background_response_is_fetched_when_it_is_done(a: Client, b: Client) -> None:
    made = await ask(a, "count to 3", background=True)
    assert made.status in {"queued", "in_progress"}
    events = await drain(await call(b.responses.retrieve, made.id, stream=True))
    assert events[-1].response.output_text == "1 2 3 "
    assert await call(a.responses.retrieve, made.id) == events[-1].response


async def test_a_conversation_lives_from_create_to_delete(a: Client, b: Client) -> None:
    made = await call(a.conversations.create, metadata={"plan": "gold"}, items=[{"role": "user", "content": "hi"}])
    assert made.metadata == {"plan": "gold"}
    assert await call(b.conversations.retrieve, made.id) == made
    changed = await call(b.conversations.update, made.id, metadata={"plan": "iron"})
    assert changed.metadata == {"plan": "iron"}
    assert await call(a.conversations.retrieve, made.id) == changed
    gone = await call(a.conversations.delete, made.id)
    assert (gone.deleted, gone.object, gone.id) == (True, "conversation.deleted", made.id)
    for again in (b.conversations.retrieve, b.conversations.delete, b.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            await call(again, made.id)
    with pytest.raises(openai.NotFoundError):
        await ask(b, "hello", conversation=made.id)


async def test_items_of_a_conversation_are_created_listed_retrieved_deleted(a: Client, b: Client) -> None:
    conversation = await call(a.conversations.create)
    items: Any = [{"role": "user", "content": f"number {n}"} for n in range(5)]
    added = await call(a.conversations.items.create, conversation.id, items=items)
    ids = [item.id for item in added.data]
    assert (added.first_id, added.last_id, added.has_more) == (ids[0], ids[-1], False)
    listing = b.conversations.items.list

    async def listed(**options: Any) -> list[str]:
        return [item.id for item in await drain(await call(listing, conversation.id, **options))]

    assert await listed() == ids[::-1]
    for limit in (1, 2, 5, 100):
        assert await listed(order="asc", limit=limit) == ids
        assert await listed(order="desc", limit=limit) == ids[::-1]
    assert await listed(order="asc", after=ids[1]) == ids[2:]
    assert await listed(order="desc", after=ids[1]) == ids[:1]
    item = await call(b.conversations.items.retrieve, ids[2], conversation_id=conversation.id)
    assert item == added.data[2]
    assert (await call(b.conversations.items.delete, ids[2], conversation_id=conversation.id)).id == conversation.id
    with pytest.raises(openai.NotFoundError):
        await call(a.conversations.items.retrieve, ids[2], conversation_id=conversation.id)
    for limit in (1, 2, 5):
        assert await listed(order="asc", limit=limit) == ids[:2] + ids[3:]
        assert await listed(order="desc", limit=limit) == ids[:2:-1] + ids[1::-1]


async def test_a_full_page_says_whether_more_follows(a: Client) -> None:
    items: Any = [{"role": "user", "content": f"number {n}"} for n in range(4)]
    conversation = await call(a.conversations.create, items=items)
    listing = a.conversations.items.list
    assert (await call(listing, conversation.id, limit=4)).has_more is False
    assert (await call(listing, conversation.id, limit=3)).has_more is True
    assert (await call(listing, conversation.id, limit=3)).last_id == (await call(listing, conversation.id)).data[2].id


async def test_every_kind_of_item_that_can_be_sent_comes_back_valid(a: Client) -> None:
    items: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "input_text", "text": "Very."}]},
        {"role": "assistant", "content": "Yes."},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "reasoning", "id": "rs_x", "summary": []},
    ]
    conversation = await call(a.conversations.create, items=items)
    listed = await drain(await call(a.conversations.items.list, conversation.id, order="asc"))
    kinds = ["message", "message", "message", "function_call", "function_call_output", "reasoning"]
    assert [item.type for item in listed] == kinds


@pytest.mark.parametrize(
    "item",
    [
        {"role": "assistant", "content": [{"type": "output_text", "text": "no annotations"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.test/a.png"}]},
        {"type": "reasoning"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "x:"}]},
    ],
    ids=["output_text", "input_image", "reasoning", "output image"],
)
async def test_what_the_api_lets_a_client_leave_out_is_filled_in(a: Client, item: Any) -> None:
    conversation = await call(a.conversations.create, items=[item])
    assert len(await drain(await call(a.conversations.items.list, conversation.id))) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": "maybe"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "banana"},
        {"type": "function_call_output", "call_id": "c", "output": [7]},
    ],
    ids=["approve", "status", "output"],
)
async def test_what_no_client_could_read_back_is_refused(a: Client, item: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        await call(a.conversations.create, items=[item])


async def test_agents_are_models(a: Client) -> None:
    assert sorted(model.id for model in await drain(await call(a.models.list))) == ["echo", "support"]
    assert (await call(a.models.retrieve, "echo")).id == "echo"
    with pytest.raises(openai.NotFoundError):
        await call(a.models.retrieve, "nobody")


async def test_a_turn_on_one_pod_the_next_on_the_other_answers_from_context(a: Client, b: Client) -> None:
    conversation = (await call(a.conversations.create)).id
    assert "do not know" in (await ask(a, "what is my name", conversation=conversation)).output_text
    told = await ask(a, "my name is Ada", conversation=conversation)
    assert told.conversation.id == conversation
    assert "Ada" in (await ask(b, "what is my name", conversation=conversation)).output_text


async def test_a_chain_of_responses_is_one_history_across_pods(a: Client, b: Client) -> None:
    last = await ask(a, "my name is Grace")
    for client in (b, a, b):
        following = await ask(client, "what is my name", previous_response_id=last.id)
        assert following.previous_response_id == last.id
        assert "Grace" in following.output_text
        assert conversation_of(following.id) == conversation_of(last.id)
        last = following


async def _said(client: Client, response_id: str) -> list[str]:
    listing = await call(client.conversations.items.list, conversation_of(response_id), order="asc")
    return [item.content[0].text for item in await drain(listing) if item.role == "user"]


async def test_chaining_from_an_older_response_forks_and_the_original_goes_on(a: Client, b: Client) -> None:
    first = await ask(a, "my name is Ada")
    second = await ask(b, "my name is Bob", previous_response_id=first.id)
    fork = await ask(b, "what is my name", previous_response_id=first.id)
    assert "Ada" in fork.output_text
    assert conversation_of(fork.id) != conversation_of(first.id)
    original = await ask(a, "what is my name", previous_response_id=second.id)
    assert "Bob" in original.output_text
    onward = await ask(a, "what is my name, again", previous_response_id=fork.id)
    assert "Ada" in onward.output_text
    assert await _said(b, original.id) == ["my name is Ada", "my name is Bob", "what is my name"]
    assert await _said(a, onward.id) == ["my name is Ada", "what is my name", "what is my name, again"]
    assert await call(b.responses.retrieve, fork.id) == fork


async def test_a_fork_can_be_streamed(a: Client, b: Client) -> None:
    first = await ask(a, "my name is Ada")
    await ask(a, "my name is Bob", previous_response_id=first.id)
    events, final = await helped(b, model="support", input="what is my name", previous_response_id=first.id)
    assert {event.response.id for event in events if event.type == "response.created"} == {final.id}
    assert "Ada" in final.output_text


async def test_tools_of_the_client_are_echoed(a: Client, b: Client) -> None:
    bare: Any = {"type": "function", "name": "bare"}
    made = await ask(a, "hello", tools=[WEATHER, bare], tool_choice="auto", parallel_tool_calls=False)
    assert [tool.name for tool in made.tools] == ["get_weather", "bare"]
    assert made.tools[0].parameters == WEATHER["parameters"]
    assert [tool.strict for tool in made.tools] == [True, None], "as they were sent"
    assert made.parallel_tool_calls is False
    assert (await call(b.responses.retrieve, made.id)).tools == made.tools


async def test_a_forced_tool_and_a_text_format_are_echoed(a: Client) -> None:
    schema: Any = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": False}
    choice: Any = {"type": "function", "name": "get_weather"}
    made = await ask(a, "hello", tools=[WEATHER], tool_choice=choice, text={"format": schema})
    assert made.tool_choice.name == "get_weather"
    assert made.text.format.name == "answer"


async def test_errors_become_the_clients_own_exceptions(a: Client) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await call(a.responses.create, model="nobody", input="hello")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        await ask(a, "hello", temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as chained:
        await ask(a, "hello", previous_response_id=f"resp_{UNKNOWN}{UNKNOWN}")
    assert chained.value.status_code == 404


async def test_an_unstored_response_is_answered_and_not_kept(a: Client, b: Client) -> None:
    made = await ask(a, unique("hello"), store=False)
    assert (made.status, made.store) == ("completed", False)
    with pytest.raises(openai.NotFoundError):
        await call(b.responses.retrieve, made.id)
