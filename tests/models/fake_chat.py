"""A fake of a server that speaks OpenAI's chat completions: usage in a last chunk without choices, then `[DONE]`."""

from __future__ import annotations

from typing import Any

from tests.models.fake_server import FakeServer, Reply, sse

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 8},
}


def fake_chat() -> FakeServer:
    return FakeServer("/v1/chat/completions")


class Script:
    """Collects the chunks of one reply."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._calls = 0
        self.delta(role="assistant", content="")

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> None:
        base = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.frames.append(sse("", {**base, "choices": choices, **more}))

    def delta(self, **delta: Any) -> Script:
        self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], usage=None)
        return self

    def text(self, *deltas: str) -> Script:
        for delta in deltas:
            self.delta(content=delta)
        return self

    def call(self, call_id: str, name: str, *pieces: str) -> Script:
        start = {"index": self._calls, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        self.delta(tool_calls=[start])
        for piece in pieces:
            self.delta(tool_calls=[{"index": self._calls, "function": {"arguments": piece}}])
        self._calls += 1
        return self

    def finished(self, reason: str, *, done: bool = True, usage: bool = True) -> Reply:
        self._chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}], usage=None)
        if usage:
            self._chunk([], usage=USAGE)
        if done:
            self.frames.append(sse("", "[DONE]"))
        return Reply(self.frames)
