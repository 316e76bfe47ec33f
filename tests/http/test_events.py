"""The events of a run on the wire: their order, their shape, and that every pod tells the same ones."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.http.wire import Event, events_of, say

_REQUIRED = (
    "id object created_at completed_at status incomplete_details model previous_response_id instructions output error "
    "tools tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs "
    "temperature reasoning usage max_output_tokens max_tool_calls store background service_tier metadata "
    "safety_identifier prompt_cache_key"
)
_NOT_NULL = (
    "id object created_at status model output temperature top_p presence_penalty frequency_penalty top_logprobs "
    "tool_choice truncation tools background service_tier parallel_tool_calls text store metadata"
)
REQUIRED, NOT_NULL = frozenset(_REQUIRED.split()), frozenset(_NOT_NULL.split())
TURNS = ["my name is Ada", "look up order A1", "refund order E5 100"]


async def stream(client: httpx2.AsyncClient, said: str) -> str:
    """The whole stream of a turn."""
    answered = await say(client, said, stream=True)
    assert answered.status_code == 200
    return str(answered.text)


async def replay(client: httpx2.AsyncClient, response_id: str, after: int | None = None) -> str:
    """The whole stream that retrieve gives."""
    cursor = {} if after is None else {"starting_after": after}
    told = await client.get(f"/v1/responses/{response_id}", params={"stream": "true", **cursor})
    assert told.status_code == 200, told.text
    return str(told.text)


@pytest.fixture(params=[*TURNS, "replay"])
async def told(request: pytest.FixtureRequest, a: httpx2.AsyncClient, b: httpx2.AsyncClient) -> str:
    """The raw stream of a plain turn, of turns with a tool, and of the replay of one that was never streamed."""
    if request.param != "replay":
        return await stream(a, request.param)
    return await replay(b, (await say(a, "look up order A1")).json()["id"])


def test_a_stream_begins_ends_and_counts_as_promised(told: str) -> None:
    events = events_of(told)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [kind for kind in kinds if kind in {"response.created", "response.completed"}] == [kinds[0], kinds[-1]]
    numbers = [event.data["sequence_number"] for event in events]
    assert numbers == list(range(len(events)))
    assert all(event.kind == event.data["type"] for event in events)


def test_no_frame_trips_the_openai_client(told: str) -> None:
    assert not [line for line in told.split("\n") if line.startswith(("id:", "retry:"))]
    assert not [event for event in events_of(told) if event.data.get("error")]
    assert told.count("[DONE]") == 1


def test_every_item_opens_once_and_closes_once_as_what_the_response_holds(told: str) -> None:
    events = events_of(told)
    final = events[-1].data["response"]["output"]
    for index, item in enumerate(final):
        mine = [event for event in events if event.data.get("output_index") == index]
        added, done = mine[0], mine[-1]
        assert (added.kind, done.kind) == ("response.output_item.added", "response.output_item.done")
        assert added.data["item"]["status"] == "in_progress"
        assert added.data["item"]["id"] == item["id"]
        assert done.data["item"] == item
        assert {event.data["item_id"] for event in mine[1:-1]} == {item["id"]}
    added_at = [event.data["output_index"] for event in events if event.kind == "response.output_item.added"]
    assert added_at == list(range(len(final)))


def test_text_arrives_part_by_part_in_order(told: str) -> None:
    events = events_of(told)
    message = events[-1].data["response"]["output"][-1]
    mine = [event for event in events if event.data.get("item_id") == message["id"]]
    kinds = [event.kind.removeprefix("response.") for event in mine]
    assert kinds[0] == "content_part.added"
    assert kinds[-2:] == ["output_text.done", "content_part.done"]
    assert set(kinds[1:-2]) == {"output_text.delta"}
    assert all(event.data["logprobs"] == [] for event in mine[1:-1])
    text = "".join(event.data["delta"] for event in mine[1:-2])
    assert text == mine[-2].data["text"] == mine[-1].data["part"]["text"] == message["content"][0]["text"] != ""


@pytest.mark.parametrize("streamed", [True, False], ids=["live", "replay"])
async def test_a_server_run_call_shows_its_arguments_and_its_end(a: httpx2.AsyncClient, streamed: bool) -> None:
    said = "look up order A1"
    told = await stream(a, said) if streamed else await replay(a, (await say(a, said)).json()["id"])
    events = events_of(told)
    call = events[-1].data["response"]["output"][0]
    assert (call["type"], call["server_label"], call["status"]) == ("mcp_call", "support", "completed")
    mine = [event for event in events if event.data.get("item_id") == call["id"]]
    assert [event.kind for event in mine] == [
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
    ]
    assert mine[1].data["delta"] == mine[2].data["arguments"] == call["arguments"]


def _check_response(event: Event) -> None:
    response: dict[str, Any] = event.data["response"]
    assert not REQUIRED - response.keys()
    assert not [name for name in NOT_NULL if response[name] is None]
    assert all(item["id"] and item["status"] for item in response["output"])


def test_every_response_object_has_all_required_fields(told: str) -> None:
    bearing = [event for event in events_of(told) if "response" in event.data]
    assert len(bearing) == 3
    for event in bearing:
        _check_response(event)
    assert len({event.data["response"]["id"] for event in bearing}) == 1
    first, final = bearing[0].data["response"], bearing[-1].data["response"]
    assert (first["status"], first["output"], first["completed_at"]) == ("in_progress", [], None)
    assert (final["status"], final["error"], final["incomplete_details"]) == ("completed", None, None)
    assert final["completed_at"] >= final["created_at"]


@pytest.mark.parametrize("said", TURNS)
async def test_the_other_pod_tells_the_same_stream(a: httpx2.AsyncClient, b: httpx2.AsyncClient, said: str) -> None:
    told = events_of(await stream(a, said))
    response_id = told[-1].data["response"]["id"]
    assert events_of(await replay(b, response_id)) == told
    assert events_of(await replay(a, response_id)) == told
    for number in range(len(told)):
        assert events_of(await replay(b, response_id, number)) == told[number + 1 :]


async def test_a_replay_is_the_same_every_time_and_on_every_pod(a: httpx2.AsyncClient, b: httpx2.AsyncClient) -> None:
    response_id = (await say(a, "count to 7")).json()["id"]
    assert await replay(a, response_id) == await replay(b, response_id) == await replay(b, response_id)


async def test_the_final_event_is_what_retrieve_gives(a: httpx2.AsyncClient, b: httpx2.AsyncClient) -> None:
    for said in TURNS:
        final = events_of(await stream(a, said))[-1].data["response"]
        stored = await b.get(f"/v1/responses/{final['id']}")
        assert stored.json() == final


async def test_a_plain_answer_has_all_required_fields(a: httpx2.AsyncClient) -> None:
    body = (await say(a, "hello")).json()
    _check_response(Event("", {"response": body}))


async def test_a_stream_of_a_long_answer_loses_nothing(a: httpx2.AsyncClient, b: httpx2.AsyncClient) -> None:
    """More deltas than a pod may run ahead of the log."""
    told = events_of(await stream(a, "count to 1500"))
    text = "".join(event.data["delta"] for event in told if event.kind.endswith(".delta"))
    assert text == "".join(f"{number} " for number in range(1, 1501))
    assert events_of(await replay(b, told[-1].data["response"]["id"])) == told


async def test_a_stream_is_not_cached_compressed_or_buffered(a: httpx2.AsyncClient) -> None:
    answered = await say(a, "hello", stream=True)
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert answered.headers["cache-control"] == "no-cache, no-transform"
    assert answered.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answered.headers


async def test_a_run_can_be_followed_on_the_other_pod_while_it_lives(
    a: httpx2.AsyncClient, b: httpx2.AsyncClient
) -> None:
    begun = await say(a, "open a slow ticket 0.2: follow me", background=True)
    assert begun.json()["status"] in {"queued", "in_progress"}
    followed = events_of(await replay(b, begun.json()["id"]))
    assert followed[0].kind == "response.created"
    assert followed[-1].kind == "response.completed"
    assert (await a.get(f"/v1/responses/{begun.json()['id']}")).json() == followed[-1].data["response"]
