"""Request bodies: what is taken, how it is filled in, and how a fault is named."""

from __future__ import annotations

from typing import Any

import pytest

from agentrt.http.body import Bounds, check_metadata, check_options, check_user
from agentrt.http.errors import ApiError
from agentrt.http.items import check_items
from agentrt.models import anthropic_wire, chat_wire, openai_wire
from agentrt.models.base import ModelRequest
from agentrt.records import Item, Request
from agentrt.runtime.context import client_tools

BOUNDS = Bounds(body_bytes_max=10_000, item_bytes_max=2_000, items_max=3)


def fault(function: Any, *args: Any) -> ApiError:
    """The error of a call that must be refused as a 400."""
    with pytest.raises(ApiError) as refused:
        function(*args)
    assert refused.value.status == 400
    return refused.value


def test_a_text_is_a_user_message() -> None:
    assert check_items("hello", BOUNDS) == [
        {
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "hello"}],
        }
    ]


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_the_text_of_a_message_becomes_a_part(role: str) -> None:
    (item,) = check_items([{"role": role, "content": "hi"}], BOUNDS)
    assert item["content"] == [{"type": "input_text", "text": "hi"}]
    assert (item["type"], item["role"], item["status"]) == ("message", role, "completed")


def test_an_assistants_text_is_output() -> None:
    (item,) = check_items([{"type": "message", "role": "assistant", "content": "hi"}], BOUNDS)
    assert item["content"] == [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}]


def test_ids_are_the_runtimes_to_give() -> None:
    items = [
        {"id": "mine", "role": "user", "content": "hi"},
        {"id": "mine", "type": "function_call_output", "call_id": "c", "output": "x"},
    ]
    assert all("id" not in item for item in check_items(items, BOUNDS))


def test_a_call_and_its_output_are_kept_as_they_are() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{ "a":1}'}
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}
    assert check_items([call, output], BOUNDS) == [
        {**call, "status": "completed"},
        {**output, "status": "completed"},
    ]


def test_an_approval_has_no_status() -> None:
    item = {"type": "mcp_approval_response", "approval_request_id": "r", "approve": True}
    assert check_items([item], BOUNDS) == [item]


def test_the_input_is_not_changed() -> None:
    raw = [{"id": "x", "role": "user", "content": "hi"}]
    check_items(raw, BOUNDS)
    assert raw == [{"id": "x", "role": "user", "content": "hi"}]


@pytest.mark.parametrize("value", [None, 1, {}, [], True])
def test_no_items(value: Any) -> None:
    error = fault(check_items, value, BOUNDS)
    assert (error.param, error.code) == ("input", "invalid_type")


def test_faults_name_the_place_under_the_callers_name() -> None:
    items = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "refusal"}]}]
    assert fault(check_items, items, BOUNDS, "items").param == "items[1].content[0].refusal"


def test_bounds_are_reached_and_not_passed() -> None:
    item = {"role": "user", "content": "x"}
    assert len(check_items([item] * 3, BOUNDS)) == 3
    assert fault(check_items, [item] * 4, BOUNDS).code == "array_above_max_length"
    assert check_items([{"role": "user", "content": "x" * 1_800}], BOUNDS)
    assert fault(check_items, [{"role": "user", "content": "x" * 2_000}], BOUNDS).code == "item_too_large"


def test_an_items_bytes_are_counted_not_its_characters() -> None:
    assert fault(check_items, [{"role": "user", "content": "é" * 1_500}], BOUNDS).param == "input[0]"


def test_options_are_those_that_were_given() -> None:
    body = {"temperature": 0, "store": False, "instructions": None, "metadata": None, "tools": None, "banana": 1}
    assert check_options(body) == {"temperature": 0, "store": False}
    assert not any(check_options({"metadata": {}, "tools": []}).values())


def test_a_tool_gets_what_strict_clients_require_of_its_echo() -> None:
    tools = check_options({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]})["tools"]
    assert tools == [{"type": "function", "name": "f", "strict": None, "parameters": {}, "description": None}]
    given = {"type": "function", "name": "g", "strict": False, "parameters": {"type": "object"}, "description": "d"}
    assert check_options({"tools": [given]})["tools"] == [given]


def test_a_tool_is_strict_only_where_its_client_says_so() -> None:
    """Providers refuse a strict tool with an open schema; most clients say nothing of it."""
    open_, said = {"type": "function", "name": "f", "parameters": {"type": "object"}}, {"strict": True}
    for tool, strict in ((open_, False), ({**open_, "strict": None}, False), ({**open_, **said}, True)):
        tools = client_tools(Request("a", 1, check_options({"tools": [tool]})))
        request = ModelRequest([Item.of({"type": "message", "role": "user", "content": "q"})], tools=tools)
        bodies = [wire.parameters("m", request) for wire in (openai_wire, chat_wire)]
        for body in (*bodies, anthropic_wire.parameters("m", request, 100)):
            (sent,) = body["tools"]
            assert bool(sent.get("function", sent).get("strict")) is strict
    for name, wrong in (("strict", "yes"), ("description", 5)):
        assert fault(check_options, {"tools": [{**open_, name: wrong}]}).param == f"tools[0].{name}"


def test_a_text_option_without_a_format_is_plain_text() -> None:
    assert check_options({"text": {"verbosity": "low"}})["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    schema = {"format": {"type": "json_object"}}
    assert check_options({"text": schema})["text"] == schema


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 2, 0.7], [-0.01, 2.01, "1", True]),
        ("top_p", [0, 1], [1.1, False]),
        ("max_output_tokens", [1], [0, -1, 1.0, "5", True]),
        ("top_logprobs", [0, 20], [21, -1]),
        ("presence_penalty", [-2, 2], [2.1]),
        ("truncation", ["auto", "disabled"], ["", "on"]),
        (
            "tool_choice",
            [
                "none",
                {"type": "function", "name": "f"},
                {"type": "function", "function": {"name": "f"}},
                {"type": "mcp", "server_label": "agent", "name": "f"},
                {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
                {"type": "allowed_tools", "tools": [{"type": "mcp", "server_label": "agent"}]},
            ],
            [1, ["auto"], "any", {}, {"name": "f"}, {"type": "allowed_tools"}, {"type": "function", "function": 1}],
        ),
        ("background", [True, False], [0, "true"]),
    ],
)
def test_the_range_of_an_option(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert check_options({name: value}) == {name: value}
    for value in bad:
        error = fault(check_options, {name: value})
        assert error.param == name
        assert name in str(error)


def test_metadata_is_bounded() -> None:
    full = {"k" * 62 + f"{n:02}": "v" * 512 for n in range(16)}
    assert check_metadata(full) == full
    for wrong in ([], {"a": None}, {"a": "v" * 513}, {"k" * 65: ""}, {**full, "one": "more"}):
        assert str(fault(check_metadata, wrong).param).startswith("metadata")


def test_the_user_is_the_safety_identifier_first() -> None:
    assert check_user({}) == ""
    assert check_user({"user": "u"}) == "u"
    assert check_user({"user": "u", "safety_identifier": "s"}) == "s"
    assert check_user({"user": "u", "safety_identifier": None}) == "u"
    for wrong in ("", "a b", "a/b", "a\n", "é", "x" * 65, 5):
        assert fault(check_user, {"user": wrong}).param == "user"
