"""A fake of Anthropic's Messages API: usage in `message_start` and, cumulative, in `message_delta`."""

from __future__ import annotations

from typing import Any

from tests.models.fake_server import FakeServer, Reply, sse


def fake_anthropic() -> FakeServer:
    return FakeServer("/v1/messages")


class Script:
    """Collects the frames of one reply."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._index = 0
        usage = {
            "input_tokens": 30,
            "cache_creation_input_tokens": 6,
            "cache_read_input_tokens": 64,
            "output_tokens": 1,
        }
        message = {"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude-test", "content": []}
        self._emit("message_start", message={**message, "stop_reason": None, "usage": usage})
        self._emit("ping")

    def _emit(self, event: str, **data: Any) -> None:
        self.frames.append(sse(event, {"type": event, **data}))

    def block(self, start: dict[str, Any], *deltas: dict[str, Any]) -> Script:
        self._emit("content_block_start", index=self._index, content_block=start)
        for delta in deltas:
            self._emit("content_block_delta", index=self._index, delta=delta)
        self._emit("content_block_stop", index=self._index)
        self._index += 1
        return self

    def text(self, *deltas: str) -> Script:
        pieces = [{"type": "text_delta", "text": delta} for delta in deltas]
        return self.block({"type": "text", "text": ""}, *pieces)

    def thinking(self, thought: str, signature: str) -> Script:
        return self.block(
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": thought},
            {"type": "signature_delta", "signature": signature},
        )

    def redacted(self, data: str) -> Script:
        return self.block({"type": "redacted_thinking", "data": data})

    def call(self, call_id: str, name: str, *pieces: str) -> Script:
        start = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        return self.block(start, *deltas)

    def stopped(self, reason: str, **delta: Any) -> Reply:
        usage = {"output_tokens": 20, "output_tokens_details": {"thinking_tokens": 8}}
        self._emit("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **delta}, usage=usage)
        self._emit("message_stop")
        return Reply(self.frames)

    def error(self, kind: str, message: str) -> Reply:
        self._emit("error", error={"type": kind, "message": message})
        return Reply(self.frames)

    def malformed(self, data: str) -> Reply:
        return Reply([*self.frames, sse("content_block_delta", data)])


def failure(status: int, kind: str, message: str, **headers: str) -> Reply:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body=body, headers={"request-id": "req_1", **sent})
