"""What a chat stream makes of a run's events. Pure."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentrt.http.chat_stream import ChatStream
from agentrt.http.errors import ApiError
from agentrt.records import Request


def rendered(*said: tuple[str, str], kept: list[str]) -> str:
    """The chunks of texts (item, text), of a response that has these items in the end."""
    stream = ChatStream("chatcmpl-x", Request("a", 1, {}, chat=True), with_usage=False)
    frames: list[tuple[str, dict[str, Any]]] = []
    for item, text in said:
        frames.append(("response.output_text.delta", {"item_id": item, "delta": text}))
        frames.append(("response.output_item.done", {"item": {"id": item, "type": "message", "status": "completed"}}))
    output = [{"id": item, "type": "message"} for item in kept]
    ended = {"status": "completed", "error": None, "output": output, "usage": None}
    frames.append(("response.completed", {"response": ended}))
    return b"".join(stream.render((n, kind, orjson.dumps(data))) for n, (kind, data) in enumerate(frames)).decode()


def test_two_messages_of_one_run_are_one_text() -> None:
    assert '"content":"\\n\\ntwo"' in rendered(("a", "one"), ("b", "two"), kept=["a", "b"])


def test_text_that_is_no_part_of_the_answer_ends_in_an_error() -> None:
    """A message was whole, and then its reply was cut and asked for again: the chat has shown what does not count."""
    with pytest.raises(ApiError, match="begins anew"):
        rendered(("a", "one"), ("b", "one"), kept=["b"])
