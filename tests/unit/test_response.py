"""The response object and the events that are made of it. Pure."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentrt.records import Request, Usage
from agentrt.runtime import response

REQUEST = Request("support", 1_700_000_000, {})
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}],
}
REFUSAL: dict[str, Any] = {**MESSAGE, "id": "msg_2", "content": [{"type": "refusal", "refusal": "no"}]}
MCP: dict[str, Any] = {
    "id": "mcp_1",
    "type": "mcp_call",
    "server_label": "support",
    "name": "f",
    "arguments": "{}",
    "output": "done",
    "error": None,
    "approval_request_id": None,
    "status": "completed",
}
CALL: dict[str, Any] = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "c",
    "name": "g",
    "arguments": '{"a":1}',
    "status": "completed",
}
REASONING: dict[str, Any] = {
    "id": "rs_1",
    "type": "reasoning",
    "status": "completed",
    "summary": [{"type": "summary_text", "text": "hm"}],
}


def kinds(item: dict[str, Any]) -> list[str]:
    """The events of a finished item, without the common prefix."""
    return [kind.removeprefix("response.") for kind, _ in response.item_events(0, item)]


def test_a_body_has_defaults_and_what_was_asked_for() -> None:
    plain = response.body(REQUEST, "resp_x", "in_progress")
    assert (plain["id"], plain["status"], plain["model"]) == ("resp_x", "in_progress", "support")
    assert (plain["temperature"], plain["tools"], plain["metadata"], plain["usage"]) == (1.0, [], {}, None)
    asked = Request("support", 1, {"temperature": 0, "store": False, "instructions": "brief"}, previous="resp_p")
    body = response.body(asked, "resp_x", "completed", [MESSAGE], completed_at=5)
    assert (body["temperature"], body["store"], body["instructions"]) == (0, False, "brief")
    assert (body["previous_response_id"], body["conversation"], body["completed_at"]) == ("resp_p", None, 5)
    assert list(body["output"]) == [MESSAGE]


def test_the_conversation_is_an_object() -> None:
    body = response.body(Request("a", 1, {}, conversation="conv_x"), "resp_x", "completed")
    assert (body["conversation"], body["previous_response_id"]) == ({"id": "conv_x"}, None)


def test_notes_join_the_metadata_and_change_neither_the_request_nor_the_defaults() -> None:
    options = {"metadata": {"a": "1"}}
    body = response.body(Request("a", 1, options), "x", "incomplete", metadata={"why": "max_steps"})
    assert body["metadata"] == {"a": "1", "why": "max_steps"}
    assert options == {"metadata": {"a": "1"}}
    response.body(REQUEST, "x", "incomplete", metadata={"why": "max_steps"})
    assert response.body(REQUEST, "x", "completed")["metadata"] == {}


def test_usage_adds_up_and_unknown_usage_is_null() -> None:
    usage = response.body(REQUEST, "x", "completed", (), Usage(10, 5, 4, 3))["usage"]
    assert usage == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }
    assert response.body(REQUEST, "x", "completed", (), None)["usage"] is None


@pytest.mark.parametrize(
    ("status", "event"),
    [
        ("completed", "response.completed"),
        ("failed", "response.failed"),
        ("incomplete", "response.incomplete"),
        ("cancelled", "response.incomplete"),
    ],
)
def test_a_stream_ends_with_the_event_of_its_status(status: str, event: str) -> None:
    assert response.terminal_event(status) == event
    assert event in response.TERMINAL_EVENTS


def test_the_events_of_each_kind_of_item() -> None:
    around = ["output_item.added", "output_item.done"]
    assert kinds(MESSAGE) == [
        around[0], "content_part.added", "output_text.delta", "output_text.done", "content_part.done", around[1]
    ]  # fmt: skip
    assert kinds(REFUSAL) == [
        around[0], "content_part.added", "refusal.delta", "refusal.done", "content_part.done", around[1]
    ]  # fmt: skip
    assert kinds(MCP) == [
        around[0], "mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done",
        "mcp_call.completed", around[1],
    ]  # fmt: skip
    assert kinds({**MCP, "status": "failed", "output": "broke"})[-2:] == ["mcp_call.failed", around[1]]
    assert kinds(CALL) == [
        around[0], "function_call_arguments.delta", "function_call_arguments.done", around[1]
    ]  # fmt: skip
    assert kinds(REASONING) == around


@pytest.mark.parametrize("item", [MESSAGE, REFUSAL, MCP, CALL, REASONING], ids=lambda item: item["id"])
def test_an_item_opens_empty_and_closes_whole_under_one_id(item: dict[str, Any]) -> None:
    before = orjson.dumps(item)
    events = list(response.item_events(3, item))
    assert {fields["output_index"] for _, fields in events} == {3}
    opened, closed = events[0][1]["item"], events[-1][1]["item"]
    assert (opened["id"], opened["status"]) == (item["id"], "in_progress")
    assert not any(opened.get(name) for name in ("content", "output", "arguments", "summary", "error"))
    assert closed == item
    assert {fields["item_id"] for _, fields in events[1:-1]} <= {item["id"]}
    assert orjson.dumps(item) == before


def test_what_was_sent_before_is_not_sent_again_at_the_close() -> None:
    message = [kind for kind, _ in response.closing(0, MESSAGE, opened=True)]
    assert message == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    call = [kind for kind, _ in response.closing(0, MCP, opened=True)]
    assert call == ["response.mcp_call.completed", "response.output_item.done"]


def result(status: str = "completed", **ending: Any) -> bytes:
    """A final body with two items."""
    return orjson.dumps(response.body(REQUEST, "resp_x", status, [MCP, MESSAGE], Usage(1, 1), **ending))


def test_a_replay_is_numbered_from_zero_and_the_same_every_time() -> None:
    frames = list(response.replay(result()))
    assert frames == list(response.replay(result()))
    events = [orjson.loads(frame) for frame in frames]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1] == {
        "type": "response.completed",
        "sequence_number": len(events) - 1,
        "response": orjson.loads(result()),
    }


def test_a_replay_begins_with_a_response_that_knows_nothing_of_its_end() -> None:
    final = result("failed", error=response.error_body("server_error", "broke"), completed_at=9)
    first = orjson.loads(next(response.replay(final)))["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert (first["error"], first["completed_at"], first["incomplete_details"]) == (None, None, None)


def test_the_replay_of_a_cancelled_response_ends_as_incomplete() -> None:
    last = orjson.loads(list(response.replay(result("cancelled")))[-1])
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")


def test_a_response_id_routes_itself() -> None:
    assert response.response_id("s" * 22, "r" * 22) == "resp_" + "s" * 22 + "r" * 22
