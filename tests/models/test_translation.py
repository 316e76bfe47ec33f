"""The pure half of the adapters: items to each provider's messages, requests to parameters, Retry-After."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from agentrt.errors import Unsupported
from agentrt.models import anthropic_wire, failure, openai_wire
from agentrt.models.anthropic_messages import system_and_messages
from agentrt.models.base import ModelRequest, ToolSpec
from agentrt.models.chat_wire import messages as chat_messages
from agentrt.models.conversation import INTERRUPTED
from agentrt.models.openai_wire import input_items
from agentrt.records import COMPACTED, Item, seal

RUN, RUN2 = "a" * 22, "b" * 22


def user(text: str) -> Item:
    return Item.of({"id": "msg_u", "type": "message", "role": "user", "content": text})


def said(text: str, step: int | None = None, run: str = RUN) -> Item:
    part = {"type": "output_text", "text": text, "annotations": []}
    data = {"id": f"msg_{run}t{step}", "type": "message", "role": "assistant", "content": [part]}
    return Item.of(data, {} if step is None else {"step": step})


def mcp(n: int, step: int, run: str = RUN, private: dict[str, Any] | None = None, **more: Any) -> Item:
    data = {"id": f"mcp_{run}{n}", "type": "mcp_call", "name": "t", "arguments": f'{{"n":{n}}}', "output": f"o{n}"}
    return Item.of({**data, **more}, {"step": step, **(private or {})})


def shape(messages: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(m["role"], [block["type"] for block in m["content"]]) for m in messages]


def messages(*items: Item) -> list[dict[str, Any]]:
    return system_and_messages(items)[1]


def kinds(*items: Item) -> list[str]:
    return [item["type"] for item in input_items(items)]


def test_steps_of_a_run_alternate() -> None:
    items = (user("q"), mcp(1, 0), mcp(2, 0), mcp(3, 1), said("x", 1), said("done", 2), user("r"))
    assert shape(messages(*items)) == [
        ("user", ["text"]),
        ("assistant", ["tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result"]),
        ("assistant", ["text", "tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["text"]),
        ("user", ["text"]),
    ]
    call, output = "function_call", "function_call_output"
    sent = ["message", call, call, output, output, "message", call, output, "message", "message"]
    assert kinds(*items) == sent


def test_same_step_of_another_run_is_another_step() -> None:
    sent = messages(user("q"), mcp(1, 0), mcp(1, 0, RUN2))
    assert [m["role"] for m in sent] == ["user", "assistant", "user", "assistant", "user"]


def test_results_come_first_in_the_user_message() -> None:
    sent = messages(user("q"), mcp(1, 0), user("r"))
    assert shape(sent)[-1] == ("user", ["tool_result", "text"])


def test_client_calls_without_a_step() -> None:
    def call(n: int) -> Item:
        return Item.of({"id": f"fc_{n}", "type": "function_call", "call_id": f"c{n}", "name": "t", "arguments": "{"})

    def output(n: int) -> Item:
        return Item.of({"id": f"fco_{n}", "type": "function_call_output", "call_id": f"c{n}", "output": f"o{n}"})

    sent = messages(user("q"), call(1), output(1), call(2), call(3), output(3), output(2), output(9))
    assert shape(sent)[1:] == [
        ("assistant", ["tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result"]),
    ]
    assert sent[1]["content"][0]["input"] == {}
    assert [block["content"] for block in sent[4]["content"]] == ["o2", "o3"]


def test_dangling_call_is_answered_at_both() -> None:
    call = Item.of({"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "t", "arguments": "{}"})
    result = messages(user("q"), call, user("hello?"))[2]["content"][0]
    assert result == {"type": "tool_result", "tool_use_id": "c1", "content": INTERRUPTED, "is_error": True}
    output = input_items([user("q"), call, user("hello?")])[2]
    assert output == {"type": "function_call_output", "call_id": "c1", "output": f"Error: {INTERRUPTED}"}


@pytest.mark.parametrize(
    ("more", "text", "failed"),
    [
        ({"output": "fine"}, "fine", False),
        ({"output": None, "error": "broke"}, "broke", True),
        ({"output": None, "error": {"type": "x", "message": "broke"}}, "broke", True),
        ({"output": None, "error": {"code": 5}}, '{"code":5}', True),
        ({"output": "broke", "error": None, "status": "failed"}, "broke", True),
        ({"output": None, "error": None, "status": "completed"}, "", False),
        ({"output": None, "error": None, "status": "incomplete"}, INTERRUPTED, True),
    ],
)
def test_outcome_of_a_server_run_call(more: dict[str, Any], text: str, failed: bool) -> None:
    result = messages(user("q"), mcp(1, 0, **more))[2]["content"][0]
    assert (result["content"], result.get("is_error", False)) == (text, failed)
    output = input_items([user("q"), mcp(1, 0, **more)])[2]["output"]
    assert output == (f"Error: {text}" if failed else text)


def test_call_ids() -> None:
    own = mcp(1, 0, private={"provider": "anthropic", "call_id": "toolu_1"})
    odd = mcp(2, 0, id="mcp_" + RUN + "é" * 40)
    blocks = messages(user("q"), own, odd, own)[1]["content"]
    ids = [block["id"] for block in blocks]
    assert ids[0] == "toolu_1"
    assert len(set(ids)) == 3  # a repeated id would be refused
    assert all(len(one) <= 64 and one.isascii() and one.replace("_", "").isalnum() for one in ids)
    foreign = input_items([own])
    assert foreign[0]["call_id"] == foreign[1]["call_id"] == f"call_mcp_{RUN}1"
    assert input_items([odd]) == input_items([odd])


@pytest.mark.parametrize(
    ("name", "asked", "shown"),
    [
        ("gpt-5", None, True),
        ("o4-mini", None, True),
        ("gpt-4.1", None, False),
        ("gpt-5-chat-latest", None, False),
        ("some-alias", None, False),
        ("some-alias", {"effort": "low"}, True),
    ],
)
def test_a_model_that_does_not_reason_is_shown_no_thoughts(
    name: str, asked: dict[str, Any] | None, shown: bool
) -> None:
    """OpenAI refuses them there, for good: an agent with both kinds of models would be stuck."""
    data = {"id": f"rs_{RUN}0", "type": "reasoning", "summary": []}
    thought = Item.of(data, {"step": 0, "provider": "openai", "data": {"encrypted_content": "gA"}})
    items = [user("q"), thought, mcp(1, 0, private={"provider": "openai"})]
    body = openai_wire.parameters(name, ModelRequest(items, reasoning=asked))
    kinds = ["message", "function_call", "function_call_output"]
    assert [item["type"] for item in body["input"]] == ([kinds[0], "reasoning", *kinds[1:]] if shown else kinds)
    assert ("include" in body) == shown


@pytest.mark.parametrize(("left", "sent"), [(None, None), (1, 16), (15, 16), (16, 16), (400, 400)])
def test_openai_is_never_allowed_fewer_tokens_than_it_takes(left: int | None, sent: int | None) -> None:
    """What earlier steps left of a request's limit may be less than OpenAI accepts as one."""
    body = openai_wire.parameters("gpt-5", ModelRequest([user("q")], max_output_tokens=left))
    assert body.get("max_output_tokens") == sent


def test_reasoning_goes_back_to_its_maker_only() -> None:
    data = {"id": f"rs_{RUN}0", "type": "reasoning", "summary": []}
    secret = {"encrypted_content": "gA", "id": "rs_1"}
    item = Item.of(data, {"step": 0, "provider": "openai", "data": secret})
    assert input_items([item, said("a", 0)])[0] == {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": "gA",
    }
    assert shape(messages(user("q"), item, said("a", 0))) == [("user", ["text"]), ("assistant", ["text"])]
    assert input_items([item]) == []  # alone it would be refused


def test_system_messages() -> None:
    def system(text: str) -> Item:
        return Item.of({"id": "msg_s", "type": "message", "role": "developer", "content": text})

    leading, sent = system_and_messages([system("first"), said("hi"), system("later"), user("q")])
    assert leading == ["first"]
    assert shape(sent) == [("user", ["text"]), ("assistant", ["text"]), ("user", ["text", "text"])]
    assert sent[2]["content"][0]["text"] == "<developer>\nlater\n</developer>"


def test_files_and_images() -> None:
    parts = [
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"},
        {"type": "input_text", "text": "  "},
    ]
    item = Item.of({"id": "msg_u", "type": "message", "role": "user", "content": parts})
    blocks = messages(item, said("seen", 0))[0]["content"]
    assert [block["type"] for block in blocks] == ["image", "image", "text", "document"]
    assert blocks[0]["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert input_items([item])[0]["content"] == parts


@pytest.mark.parametrize(
    ("translate", "part"),
    [
        (system_and_messages, {"type": "input_image", "file_id": "file_1"}),
        (system_and_messages, {"type": "input_image", "image_url": "data:image/tiff;base64,AAAA"}),
        (system_and_messages, {"type": "input_audio", "input_audio": {}}),
        (input_items, {"type": "input_audio", "input_audio": {}}),
        (input_items, {"type": "input_image"}),
        (chat_messages, {"type": "input_image", "file_id": "file_1"}),
        (chat_messages, {"type": "input_file", "file_url": "https://x/y.pdf"}),
    ],
)
def test_new_content_without_a_place_is_refused(translate: Any, part: dict[str, Any]) -> None:
    """The user is told; once a model has answered, a text stands for it, or the conversation could never go on."""
    new = Item.of({"id": "msg_u", "type": "message", "role": "user", "content": [part]})
    with pytest.raises(Unsupported, match="cannot take"):
        translate([user("q"), said("a", 0), new])
    translate([new, said("a", 0), user("q")])


def test_unknown_items_are_left_out() -> None:
    item = Item.of({"id": "x_1", "type": "mcp_list_tools", "tools": []})
    assert input_items([item]) == []
    assert shape(messages(item)) == [("user", ["text"])]


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic"),
    [
        ("auto", "auto", {"type": "auto"}),
        ("none", "none", {"type": "none"}),
        ("required", "required", {"type": "any"}),
        (
            {"type": "function", "name": "t"},
            {"type": "function", "name": "t"},
            {"type": "tool", "name": "t"},
        ),
    ],
)
def test_tool_choice(choice: Any, openai: Any, anthropic: Any) -> None:
    request = ModelRequest([user("q")], tools=[ToolSpec("t", "", {})], tool_choice=choice)
    assert openai_wire.parameters("m", request)["tool_choice"] == openai
    assert anthropic_wire.parameters("m", request, 9)["tool_choice"] == anthropic


@pytest.mark.parametrize(
    ("name", "effort", "sent"),
    [
        ("claude-sonnet-4-5", "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ("claude-next", "high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("claude-next", "none", {}),
    ],
)
def test_thinking(name: str, effort: str, sent: dict[str, Any]) -> None:
    request = ModelRequest([user("q")], reasoning={"effort": effort})
    params = anthropic_wire.parameters(name, request, 16_384)
    assert {key: params[key] for key in ("thinking", "output_config") if key in params} == sent


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2020 00:00:30 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert failure.retry_after_s(headers, now) == seconds


@pytest.mark.parametrize(("maker", "sent"), [("anthropic", True), ("openai", False)])
def test_no_thinking_amid_calls_that_another_model_made(maker: str, sent: bool) -> None:
    """A model with a budget refuses to think on when the calls were made without a thought of its own."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    reasoning = Item.of(
        {"id": f"rs_{RUN}0", "type": "reasoning", "summary": []}, {"step": 0, "provider": maker, "data": thought}
    )
    request = ModelRequest([user("q"), reasoning, mcp(1, 0)], reasoning={"effort": "low"})
    params = anthropic_wire.parameters("claude-sonnet-4-5", request, 16_384)
    assert ("thinking" in params) is sent
    later = ModelRequest([user("q"), reasoning, mcp(1, 0), said("a", 1), user("r")], reasoning={"effort": "low"})
    assert "thinking" in anthropic_wire.parameters("claude-sonnet-4-5", later, 16_384)


def test_no_thinking_where_a_call_is_forced() -> None:
    request = ModelRequest([user("q")], tools=[ToolSpec("t", "", {})], tool_choice="required", reasoning={})
    assert "thinking" not in anthropic_wire.parameters("claude-next", request, 9)


@pytest.mark.parametrize(
    ("name", "asked"), [("gpt-5", True), ("o3-mini", True), ("gpt-4.1", False), ("gpt-5-chat-latest", False)]
)
def test_thoughts_are_asked_for_where_there_are_any(name: str, asked: bool) -> None:
    params = openai_wire.parameters(name, ModelRequest([user("q")]))
    assert params.get("include") == (["reasoning.encrypted_content"] if asked else None)


def test_thinking_alone_is_not_sent() -> None:
    data = {"id": f"rs_{RUN}0", "type": "reasoning", "summary": []}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    item = Item.of(data, {"step": 0, "provider": "anthropic", "data": thought})
    assert shape(messages(user("q"), item, said(" ", 0))) == [("user", ["text"])]


def test_nothing_moves_across_a_user_message() -> None:
    sent = messages(user("q"), said("a", 0), user("wait"), said("b", 0))
    assert [message["content"][0]["text"] for message in sent] == ["q", "a", "wait", "b"]


def test_phases_of_messages_go_to_openai_only() -> None:
    thought, answer = (
        {**said(text).data, "phase": phase} for text, phase in (("hm", "commentary"), ("x", "final_answer"))
    )
    items = (user("q"), Item.of(thought), Item.of(answer), said("y"))
    assert [(one["role"], one.get("phase"), len(one["content"])) for one in input_items(items)] == [
        ("user", None, 1),
        ("assistant", "commentary", 1),
        ("assistant", "final_answer", 1),
        ("assistant", None, 1),
    ]
    assert all(set(block) == {"type", "text"} for block in messages(*items)[1]["content"])
    assert chat_messages(items)[1]["content"]


def test_a_compaction_is_a_message_with_what_it_says() -> None:
    made = Item.given({"type": "compaction", "encrypted_content": seal(COMPACTED, {"summary": "Tuesday."})}, RUN, 0)
    text = "Summary of this conversation so far:\n\nTuesday."
    assert input_items([made, user("q")])[0]["content"] == [{"type": "input_text", "text": text}]
    assert messages(made, user("q"))[0]["content"][0]["text"] == text
    foreign = Item.given({"type": "compaction", "encrypted_content": "gAAA"}, RUN, 0)
    assert kinds(foreign, user("q")) == ["message"]
