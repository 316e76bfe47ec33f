"""Chat Completions as it is answered: one completion of a finished response, or chunks of its events as they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from agentrt.http.errors import ApiError
from agentrt.records import Request
from agentrt.runtime.log import Frame
from agentrt.runtime.response import TERMINAL_EVENTS

__all__ = ["ChatStream", "completion", "completion_id"]

_BETWEEN = "\n\n"
"""Between two messages of one run, which a chat shows as one."""


def completion_id(session: str, run: str) -> str:
    """The id of a completion."""
    return f"chatcmpl-{session}{run}"


def completion(response: Mapping[str, Any]) -> dict[str, Any]:
    """The completion that a finished response is. Raises the `ApiError` of one that failed."""
    _check(response)
    texts, refusals, calls = [], [], []
    for item in response["output"]:
        if item["type"] == "message":
            texts += [part["text"] for part in item["content"] if part["type"] == "output_text"]
            refusals += [part["refusal"] for part in item["content"] if part["type"] == "refusal"]
        elif item["type"] == "function_call":
            calls.append(_call(item))
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _BETWEEN.join(texts) if texts else None,
        "refusal": _BETWEEN.join(refusals) if refusals else None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = calls
    return {
        "id": response["id"].replace("resp_", "chatcmpl-", 1),
        "object": "chat.completion",
        "created": response["created_at"],
        "model": response["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _reason(response), "logprobs": None}],
        "usage": _usage(response["usage"]),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _check(response: Mapping[str, Any]) -> None:
    error = response["error"]
    if response["status"] == "failed" and error is not None:
        refused = error["code"] == "invalid_prompt"
        raise ApiError(400 if refused else 500, error["code"], error["message"], final=True)
    if response["status"] == "cancelled":
        raise ApiError(409, "cancelled", "The run was cancelled.", final=True)


def _reason(response: Mapping[str, Any]) -> str:
    if response["status"] == "incomplete":
        reason = (response["incomplete_details"] or {}).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    return "tool_calls" if any(item["type"] == "function_call" for item in response["output"]) else "stop"


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Tokens by the chat's names; None where a lost try made them unknown."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["input_tokens_details"]["cached_tokens"], "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage["output_tokens_details"]["reasoning_tokens"],
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class ChatStream:
    """Renders the events of one run as chunks.

    Text that was sent cannot be taken back: when a message is given up half-way (its pod died, its provider cut it),
    the stream ends with an error, and the same request under its Idempotency-Key gets the whole answer.
    """

    def __init__(self, identifier: str, request: Request, *, with_usage: bool) -> None:
        self._head = {
            "id": identifier,
            "object": "chat.completion.chunk",
            "created": request.created_s,
            "model": request.agent,
            "service_tier": "default",
            "system_fingerprint": None,
        }
        self._with_usage = with_usage
        self.may_pass = False
        """Whether the run failed in a way that may pass: only then is the client asked to come again."""
        self._begun = False
        self._calls = 0
        self._said = ""
        """The item of the last text."""
        self._shown: set[str] = set()
        """The items of all text."""
        self._cut = ""
        """An item that was closed before it was complete."""

    def render(self, frame: Frame) -> bytes:
        """The chunks of an event, as server-sent events; none where a chat does not show it."""
        _, kind, data = frame
        if kind in TERMINAL_EVENTS:
            return b"".join(self._end(orjson.loads(data)["response"]))
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                event = orjson.loads(data)
                self._check_cut()
                between = _BETWEEN if self._said not in {"", event["item_id"]} else ""
                self._said = event["item_id"]
                self._shown.add(self._said)
                field = "content" if kind == "response.output_text.delta" else "refusal"
                return b"".join(self._delta({field: between + event["delta"]}))
            case "response.output_item.done":
                item = orjson.loads(data)["item"]
                if item["type"] == "message" and item["status"] == "incomplete":
                    self._cut = item["id"]
                elif item["type"] == "function_call":
                    self._check_cut()
                    call = {"index": self._calls, **_call(item)}
                    self._calls += 1
                    return b"".join(self._delta({"tool_calls": [call]}))
        return b""

    def _check_cut(self) -> None:
        if self._cut and self._cut == self._said:
            raise _cut_off()

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> Iterable[bytes]:
        if not self._begun:
            self._begun = True
            yield self._chunk([_choice({"role": "assistant", "content": "", "refusal": None}, None)], None)
        if delta or finish:
            yield self._chunk([_choice(delta, finish)], None)

    def _end(self, response: Mapping[str, Any]) -> Iterable[bytes]:
        error = response["error"]
        if error is not None and response["status"] == "failed" and self.may_pass and not self._begun:
            status = 429 if error["code"] == "rate_limit_exceeded" else 503
            raise ApiError(status, error["code"], error["message"], retry_after_s=1)
        _check(response)
        if not self._shown <= {item["id"] for item in response["output"]}:
            raise _cut_off()
        yield from self._delta({}, _reason(response))
        if self._with_usage:
            yield self._chunk([], _usage(response["usage"]))

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        chunk: dict[str, Any] = {**self._head, "choices": choices}
        if self._with_usage:
            chunk["usage"] = usage
        return b"data: %b\n\n" % orjson.dumps(chunk)


def _cut_off() -> ApiError:
    return ApiError(503, "server_error", "The reply was cut half-way and begins anew; ask again.")


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
