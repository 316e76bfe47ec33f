"""What the real providers insist on in a conversation: a request that breaks one of these is answered with 400."""

from __future__ import annotations

import itertools
from typing import Any


def check_anthropic(body: dict[str, Any], signatures: set[str]) -> None:
    """Roles alternate, a user first; each `tool_use` is answered in the very next message, first thing, and
    there are tools then; thoughts are Anthropic's own, signed, and first; with a budget for thoughts, calls that are
    under way begin with one."""
    messages = body["messages"]
    assert messages[0]["role"] == "user"
    assert all(one["role"] != two["role"] for one, two in itertools.pairwise(messages))
    seen: set[str] = set()
    for number, message in enumerate(messages):
        kinds = [block["type"] for block in message["content"]]
        assert kinds, "an empty message"
        used = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert not seen & set(used), "a call id twice"
        seen |= set(used)
        following = messages[number + 1]["content"] if number + 1 < len(messages) else []
        answered = [block["tool_use_id"] for block in following[: len(used)] if block["type"] == "tool_result"]
        assert set(used) == set(answered), "calls that the next message does not answer"
        thoughts = [block for block in message["content"] if block["type"] == "thinking"]
        assert kinds[: len(thoughts)] == ["thinking"] * len(thoughts)
        assert {block["signature"] for block in thoughts} <= signatures, "a thought that is not Anthropic's"
    assert body.get("tools") or not seen, "calls in the history, and no tools"
    if body.get("thinking", {}).get("type") == "enabled" and messages[-1]["content"][0]["type"] == "tool_result":
        assert messages[-2]["content"][0]["type"] == "thinking"


def check_openai(body: dict[str, Any], thoughts: set[str]) -> None:
    """Each call has one output behind it and each output a call before it; reasoning is OpenAI's own, and is followed
    by what it led to; nothing bears an id, since nothing is stored there."""
    called: dict[str, bool] = {}
    items = body["input"]
    for number, item in enumerate(items):
        assert "id" not in item
        match item["type"]:
            case "function_call":
                assert item["call_id"] not in called
                called[item["call_id"]] = False
            case "function_call_output":
                assert called[item["call_id"]] is False
                called[item["call_id"]] = True
            case "reasoning":
                assert item["encrypted_content"] in thoughts, "a thought that is not OpenAI's"
                assert items[number + 1]["type"] in {"function_call", "message", "reasoning"}
    assert all(called.values()), "a call without an output"
