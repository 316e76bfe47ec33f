"""Which tools a model may call, or must, as a run goes on. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from agentrt.models import anthropic_wire
from agentrt.models.base import ModelRequest
from agentrt.models.choice import of_these, relaxed
from agentrt.records import Item

NAMED = {"type": "function", "name": "mine"}
CHAT = {"type": "function", "function": {"name": "mine"}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


@pytest.mark.parametrize(
    ("choice", "then"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "auto"),
        (NAMED, "auto"),
        (CHAT, "auto"),
        (allowed("a", mode="required"), allowed("a")),
        (allowed("a"), allowed("a")),
    ],
)
def test_what_was_forced_is_free_once_it_was_done(choice: Any, then: Any) -> None:
    assert relaxed(choice) == then


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("auto", allowed("mine", "other")),
        ("none", "none"),
        ("required", allowed("mine", "other", mode="required")),
        (NAMED, NAMED),
        (CHAT, CHAT),
        ({"type": "mcp", "server_label": "s", "name": "theirs"}, allowed("mine", "other")),
        (allowed("theirs", "other", mode="required"), allowed("other", mode="required")),
        (allowed("theirs"), "none"),
    ],
)
def test_of_all_tools_only_these(choice: Any, left: Any) -> None:
    assert of_these(choice, ["mine", "other"]) == left
    assert of_these(choice, []) == "none"


def test_calls_in_the_history_and_no_tools_any_more() -> None:
    """Anthropic refuses a history with calls where no tools are told."""
    call = Item.of(
        {"id": "mcp_" + "a" * 22 + "1", "type": "mcp_call", "name": "gone", "arguments": "{}", "output": "o"},
        {"step": 0},
    )
    asked = Item.of({"id": "msg_u", "type": "message", "role": "user", "content": "go"})
    sent = anthropic_wire.parameters("m", ModelRequest([asked, call]), 100)
    assert sent["tools"] == [{"name": "gone", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}
    assert "tools" not in anthropic_wire.parameters("m", ModelRequest([asked]), 100)
