"""A fake of OpenAI's Responses API: the event sequence of the real one, usage only in the last event."""

from __future__ import annotations

from typing import Any

from tests.models.fake_server import FakeServer, Reply, sse

USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 120,
}


def fake_openai() -> FakeServer:
    return FakeServer("/v1/responses")


class Script:
    """Collects the frames of one reply, numbered as OpenAI numbers them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._output: list[dict[str, Any]] = []
        self._emit("response.created", response=self._response("in_progress"))
        self._emit("response.in_progress", response=self._response("in_progress"))

    def _emit(self, event: str, **data: Any) -> None:
        self.frames.append(sse(event, {"type": event, "sequence_number": len(self.frames), **data}))

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        base = {"id": "resp_fake", "object": "response", "created_at": 1, "model": "gpt-test"}
        return {**base, "status": status, "output": list(self._output), "usage": None, **more}

    def _added(self, item: dict[str, Any]) -> int:
        self._emit("response.output_item.added", output_index=len(self._output), item=item)
        return len(self._output)

    def _done(self, item: dict[str, Any]) -> None:
        self._emit("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def text(self, *deltas: str, kind: str = "output_text", key: str = "text") -> Script:
        item = {"id": "msg_fake", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        where = {"item_id": "msg_fake", "output_index": self._added(item), "content_index": 0}
        self._emit("response.content_part.added", **where, part={"type": kind, key: ""})
        for delta in deltas:
            self._emit(f"response.{kind}.delta", **where, delta=delta)
        self._emit(f"response.{kind}.done", **where, **{key: "".join(deltas)})
        part = {"type": kind, key: "".join(deltas)}
        self._emit("response.content_part.done", **where, part=part)
        self._done({**item, "status": "completed", "content": [part]})
        return self

    def refusal(self, *deltas: str) -> Script:
        return self.text(*deltas, kind="refusal", key="refusal")

    def reasoning(self, summary: str, encrypted: str) -> Script:
        item: dict[str, Any] = {"id": "rs_fake", "type": "reasoning", "summary": []}
        self._added(item)
        parts = [{"type": "summary_text", "text": summary}]
        self._done({**item, "summary": parts, "encrypted_content": encrypted})
        return self

    def call(self, call_id: str, name: str, arguments: str, status: str = "completed") -> Script:
        item = {"id": f"fc_{call_id}", "type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        where = {"item_id": item["id"], "output_index": self._added({**item, "status": "in_progress"})}
        self._emit("response.function_call_arguments.delta", **where, delta=arguments)
        self._emit("response.function_call_arguments.done", **where, arguments=arguments)
        self._done({**item, "arguments": arguments, "status": status})
        return self

    def completed(self) -> Reply:
        self._emit("response.completed", response=self._response("completed", usage=USAGE))
        return Reply(self.frames)

    def incomplete(self, reason: str) -> Reply:
        details = {"reason": reason}
        response = self._response("incomplete", incomplete_details=details, usage=USAGE)
        self._emit("response.incomplete", response=response)
        return Reply(self.frames)

    def failed(self, code: str, message: str) -> Reply:
        response = self._response("failed", error={"code": code, "message": message})
        self._emit("response.failed", response=response)
        return Reply(self.frames)

    def error(self, code: str, message: str) -> Reply:
        self._emit("error", code=code, message=message, param=None)
        return Reply(self.frames)

    def malformed(self, data: str) -> Reply:
        return Reply([*self.frames, sse("response.output_text.delta", data)])


def failure(status: int, code: str, message: str, **headers: str) -> Reply:
    error = {"message": message, "type": code, "param": "input[0]", "code": code}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body={"error": error}, headers={"x-request-id": "req_1", **sent})
