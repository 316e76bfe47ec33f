"""The wire format of Anthropic's Messages API: `ModelRequest` -> parameters, stream events -> `ModelEvent`s. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from agentrt.errors import ModelError
from agentrt.models import failure
from agentrt.models.anthropic_messages import PROVIDER, system_and_messages
from agentrt.models.base import (
    Finished,
    ModelEvent,
    ModelRequest,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCall,
)
from agentrt.models.choice import chosen, offered
from agentrt.records import Usage

__all__ = ["PROVIDER", "Reply", "parameters"]

_JSON_ONLY = "Answer with one JSON object and nothing else."
_CACHED = {"type": "ephemeral"}

_BUDGET_MODELS = re.compile(r"claude-(3-|(opus|sonnet|haiku)-4(-[0-5])?(-\d{8}|-latest)?$)")
"""Models whose thinking has a token budget; later ones decide themselves, guided by an effort."""
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_BUDGET_MIN = 1024
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

_Reason = Literal["stop", "tool_calls", "length", "content_filter"]
_REASONS: dict[str, _Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_CUT = frozenset({"length", "content_filter"})


def parameters(name: str, request: ModelRequest, max_tokens: int) -> dict[str, Any]:
    """The body of a request; `max_tokens` holds where the request has no limit of its own.

    With thinking, `temperature` and `top_p` are left out, because the two exclude each other.
    """
    leading, messages = system_and_messages(request.items)
    limit = request.max_output_tokens or max_tokens
    params: dict[str, Any] = {"model": name, "max_tokens": limit, "messages": messages, "stream": True}
    params["cache_control"] = _CACHED  # of the newest message; set in the block itself it would change the prefix
    system = [text for text in (request.instructions, *leading, _format_instruction(request)) if text.strip()]
    if system:
        params["system"] = _last_cached([{"type": "text", "text": text} for text in system])
    if tools := _tools(request):
        params["tools"] = _last_cached(tools)
        params["tool_choice"] = _tool_choice(request)
    elif called := _called(messages):
        params.update(tools=called, tool_choice={"type": "none"})
    output: dict[str, Any] = {}
    if request.text_format is not None and request.text_format.get("type") == "json_schema":
        output["format"] = {"type": "json_schema", "schema": request.text_format.get("schema") or {}}
    if params.get("tool_choice", {}).get("type") not in {"any", "tool"}:  # a forced call leaves no room for thoughts
        params.update(_thinking(name, request, limit, output, messages))
    if output:
        params["output_config"] = output
    sampling = {option: value for option in ("temperature", "top_p") if (value := getattr(request, option)) is not None}
    if "thinking" not in params:
        params.update(sampling)
    return params


def _format_instruction(request: ModelRequest) -> str:
    """Anthropic has no mode for JSON without a schema, so that one is asked for in words."""
    return _JSON_ONLY if request.text_format and request.text_format.get("type") == "json_object" else ""


def _last_cached(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blocks[-1] = {**blocks[-1], "cache_control": _CACHED}
    return blocks


def _tools(request: ModelRequest) -> list[dict[str, Any]]:
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.parameters,
            **({"strict": True} if tool.strict else {}),
        }
        for tool in offered(request)
    ]


def _called(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools that a history has calls of, where there are none any more: Anthropic wants to be told of some."""
    blocks = (block for message in messages for block in message["content"])
    names = dict.fromkeys(block["name"] for block in blocks if block["type"] == "tool_use")
    return [{"name": name, "input_schema": {"type": "object"}} for name in names]


def _tool_choice(request: ModelRequest) -> dict[str, Any]:
    choice = request.tool_choice
    mode = choice if isinstance(choice, str) else choice.get("mode", "auto")
    if isinstance(choice, dict) and choice.get("type") != "allowed_tools":
        sent = {"type": "tool", "name": chosen(choice)}
    else:
        sent = {"type": {"required": "any", "none": "none"}.get(mode, "auto")}
    if sent["type"] == "none" or request.parallel_tool_calls:
        return sent
    return {**sent, "disable_parallel_tool_use": True}


def _thinking(
    name: str, request: ModelRequest, limit: int, output: dict[str, Any], messages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """`thinking` for a request with reasoning, adding the effort to `output`. No room for a budget: no thinking."""
    effort = (request.reasoning or {}).get("effort") or "medium"
    if request.reasoning is None or effort not in _EFFORTS:
        return {}
    if not _BUDGET_MODELS.match(name):
        output["effort"] = _EFFORTS[effort]
        return {"thinking": {"type": "adaptive"}}
    if _amid_calls_of_another(messages):
        return {}
    budget = min(_BUDGETS[effort], limit // 2)
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= _BUDGET_MIN else {}


def _amid_calls_of_another(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the last calls come from a model that thought elsewhere, or not at all: with a budget, Anthropic wants
    the message that made them to begin with a thought of its own."""
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return False
    return messages[-2]["content"][0]["type"] not in {"thinking", "redacted_thinking"}


@dataclass(slots=True)
class _Open:
    """A content block that is being streamed."""

    start: Mapping[str, Any]
    pieces: list[str] = field(default_factory=list)
    signature: str = ""


class Reply:
    """One streamed reply. Feed it the events in order; it is over when a `Finished` comes out."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Open] = {}
        self._usage: dict[str, Any] = {}
        self._reason: _Reason | None = None
        self._doubtful: list[ToolCall] = []

    def feed(self, event: Mapping[str, Any]) -> list[ModelEvent]:
        """Translate one event; unknown types give nothing. Raises `ModelError` for an error or a malformed event."""
        match event.get("type"):
            case "message_start":
                self._count(failure.table(PROVIDER, event, "message"))
            case "content_block_start":
                block = failure.table(PROVIDER, event, "content_block")
                self._blocks[self._index(event)] = _Open(block)
                return self._more_text(block, "text") if block.get("type") == "text" else []
            case "content_block_delta":
                return self._delta(self._block(event), failure.table(PROVIDER, event, "delta"))
            case "content_block_stop":
                block_open = self._block(event)
                del self._blocks[self._index(event)]
                return self._closed(block_open)
            case "message_delta":
                self._count(event)
                return self._ended(failure.table(PROVIDER, event, "delta"))
            case "message_stop":
                return self._finished()
            case "error":
                raise _error_of(event)
            case str():
                return []
            case _:
                raise failure.broken(PROVIDER, "malformed event: no type")
        return []

    def end(self) -> Sequence[ModelEvent]:
        """A reply that is over without its last event was cut."""
        return ()

    def _index(self, event: Mapping[str, Any]) -> int:
        index = event.get("index")
        if not isinstance(index, int):
            raise failure.broken(PROVIDER, "malformed event: index is not a number")
        return index

    def _block(self, event: Mapping[str, Any]) -> _Open:
        block = self._blocks.get(self._index(event))
        if block is None:
            raise failure.broken(PROVIDER, "malformed stream: a block that was never started")
        return block

    def _count(self, holder: Mapping[str, Any]) -> None:
        """Take over counts; they are cumulative, so a later one replaces an earlier one."""
        usage = holder.get("usage")
        if isinstance(usage, dict):
            self._usage.update({key: value for key, value in usage.items() if value is not None})

    def _more_text(self, holder: Mapping[str, Any], key: str) -> list[ModelEvent]:
        piece = failure.text(PROVIDER, holder, key)
        return [TextDelta(piece)] if piece else []

    def _delta(self, block: _Open, delta: Mapping[str, Any]) -> list[ModelEvent]:
        kind = delta.get("type")
        if kind == "text_delta":
            return self._more_text(delta, "text")
        if kind == "thinking_delta":
            block.pieces.append(failure.text(PROVIDER, delta, "thinking"))
        elif kind == "signature_delta":
            block.signature += failure.text(PROVIDER, delta, "signature")
        elif kind == "input_json_delta":
            block.pieces.append(failure.text(PROVIDER, delta, "partial_json"))
        return []

    def _closed(self, block: _Open) -> list[ModelEvent]:
        match block.start.get("type"):
            case "tool_use":
                return self._called(block)
            case "thinking":
                thought = str(block.start.get("thinking") or "") + "".join(block.pieces)
                signature = str(block.start.get("signature") or "") + block.signature
                summary = [{"type": "summary_text", "text": thought}] if thought else []
                data = {"type": "thinking", "thinking": thought, "signature": signature}
                return [ReasoningDone({"type": "reasoning", "summary": summary}, {"data": data})]
            case "redacted_thinking":
                data = {"type": "redacted_thinking", "data": failure.text(PROVIDER, block.start, "data")}
                return [ReasoningDone({"type": "reasoning", "summary": []}, {"data": data})]
            case _:
                return []

    def _called(self, block: _Open) -> list[ModelEvent]:
        """A call whose arguments do not parse is held back: at the token limit they are cut and must not be run."""
        arguments = "".join(block.pieces) or orjson.dumps(block.start.get("input") or {}).decode()
        call_id, name = (failure.text(PROVIDER, block.start, key) for key in ("id", "name"))
        call = ToolCall(call_id, name, arguments)
        try:
            orjson.loads(arguments)
        except orjson.JSONDecodeError:
            self._doubtful.append(call)
            return []
        return [call]

    def _ended(self, delta: Mapping[str, Any]) -> list[ModelEvent]:
        reason = delta.get("stop_reason")
        if isinstance(reason, str):
            self._reason = _REASONS.get(reason, "stop")
        details = delta.get("stop_details")
        explanation = details.get("explanation") if isinstance(details, dict) else None
        if self._reason == "content_filter" and isinstance(explanation, str) and explanation:
            return [RefusalDelta(explanation)]
        return []

    def _finished(self) -> list[ModelEvent]:
        if self._reason is None or self._blocks:
            raise failure.broken(PROVIDER, "malformed stream: stopped before the reply was complete")
        held = [] if self._reason in _CUT else self._doubtful
        return [*held, Finished(self._reason, self._sum())]

    def _sum(self) -> Usage | None:
        if not self._usage:
            return None
        cached = failure.number(self._usage, "cache_read_input_tokens")
        written = failure.number(self._usage, "cache_creation_input_tokens")
        return Usage(
            input_tokens=failure.number(self._usage, "input_tokens") + cached + written,
            output_tokens=failure.number(self._usage, "output_tokens"),
            cached_tokens=cached,
            reasoning_tokens=failure.number(self._usage, "output_tokens_details", "thinking_tokens"),
            written_tokens=written,
        )


def _error_of(event: Mapping[str, Any]) -> ModelError:
    """The `ModelError` for an error event inside a stream; one of an unknown type is worth a retry."""
    error = event.get("error")
    kind = error.get("type") if isinstance(error, Mapping) else None
    return failure.from_status(PROVIDER, _STATUS.get(str(kind), 500), {"type": kind})
