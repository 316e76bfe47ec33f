"""The wire format of OpenAI's Responses API: `ModelRequest` -> parameters, stream events -> `ModelEvent`s. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from agentrt.errors import ModelError
from agentrt.models import failure
from agentrt.models.base import (
    Finished,
    ModelEvent,
    ModelRequest,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
)
from agentrt.models.conversation import Call, Said, Step, conversation, unanswered
from agentrt.records import Item, Usage

__all__ = ["PROVIDER", "Reply", "error_of", "input_items", "parameters"]

PROVIDER = "openai"

_TEXTS = frozenset({"input_text", "output_text", "text", "refusal"})
_INPUT_PARTS = {
    "input_image": ("image_url", "file_id", "detail"),
    "input_file": ("file_data", "file_id", "file_url", "filename"),
}
_REASONS = re.compile(r"(o\d|gpt-[5-9](?!.*chat)|codex)")
"""Models that reason unasked; their thoughts are kept too. Others refuse to be asked for them, and to be shown any."""
_OUTPUT_TOKENS_MIN = 16
"""Fewer are refused. What is left to a step may be fewer, where a request's limit is nearly spent."""
_RETRYABLE_CODES = frozenset({"server_error", "vector_store_timeout", "internal_error", "overloaded", "timeout"})
_INVALID_PREFIXES = ("invalid_", "image_", "unsupported_", "empty_", "failed_to_download", "context_length")
_POLICY_SUFFIXES = ("_policy", "_violation", "_mismatch")


def parameters(name: str, request: ModelRequest) -> dict[str, Any]:
    """The body of a request. Nothing is stored at OpenAI; unset options are left out."""
    reasons = request.reasoning is not None or _REASONS.match(name) is not None
    items = input_items(request.items, reasons=reasons)
    params: dict[str, Any] = {"model": name, "input": items, "store": False, "stream": True}
    if request.instructions:
        params["instructions"] = request.instructions
    if request.tools:
        params["tools"] = [_tool(tool) for tool in request.tools]
        params["tool_choice"] = _tool_choice(request.tool_choice)
        params["parallel_tool_calls"] = request.parallel_tool_calls
    if request.max_output_tokens is not None:
        params["max_output_tokens"] = max(_OUTPUT_TOKENS_MIN, request.max_output_tokens)
    for option in ("temperature", "top_p"):
        value = getattr(request, option)
        if value is not None:
            params[option] = value
    if request.text_format is not None:
        params["text"] = {"format": request.text_format}
    if request.reasoning is not None:
        params["reasoning"] = request.reasoning
    if reasons:
        params["include"] = ["reasoning.encrypted_content"]
    if request.cache_key:
        params["prompt_cache_key"] = request.cache_key
    return params


def input_items(items: Iterable[Item], *, reasons: bool = True) -> list[dict[str, Any]]:
    """The conversation as Responses input items, without ids: with `store=False` OpenAI knows none of them.

    `reasons`: whether the model reasons; one that does not refuses to see another one's thoughts.
    Raises `Unsupported` for new content that OpenAI cannot take; in older messages it is left out.
    """
    wire: list[dict[str, Any]] = []
    entries = conversation(items, PROVIDER)
    new = unanswered(entries)
    for number, entry in enumerate(entries):
        if isinstance(entry, Said):
            if number >= new:
                _check(entry)
            wire.extend(_message(entry.role, entry.content))
        else:
            wire.extend(_step(entry, reasons))
    return wire


def _step(step: Step, reasons: bool) -> Iterable[dict[str, Any]]:
    said = [
        {**message, "phase": phase} if phase else message
        for phase, parts in groupby(step.messages, lambda part: part.get("phase"))
        for message in _message("assistant", parts)
    ]
    if reasons and (said or step.calls):
        yield from (_reasoning(data) for data in step.reasoning if data.get("encrypted_content"))
    yield from said
    for call in step.calls:
        yield {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        }
    for call in step.calls:
        yield {"type": "function_call_output", "call_id": call.call_id, "output": _output(call)}


def _reasoning(data: Mapping[str, Any]) -> dict[str, Any]:
    """A reasoning item. Without `encrypted_content` it would be a reference to something never stored."""
    return {
        "type": "reasoning",
        "summary": data["summary"],
        "encrypted_content": data["encrypted_content"],
    }


def _output(call: Call) -> str | list[dict[str, Any]]:
    if isinstance(call.output, list):
        return [part for part in (_part("user", part) for part in call.output) if part]
    return f"Error: {call.output}" if call.failed else call.output


def _message(role: str, content: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One message, or none where nothing of its content can be sent."""
    sent = [part for part in (_part(role, part) for part in content) if part]
    return [{"type": "message", "role": role, "content": sent}] if sent else []


def _check(said: Said) -> None:
    for part in said.content:
        kind = part.get("type")
        keys = _INPUT_PARTS.get(str(kind))
        if kind not in _TEXTS and (keys is None or not any(part.get(key) for key in keys)):
            raise failure.unsupported(PROVIDER, f"content of type {kind} in this form")


def _part(role: str, part: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in _TEXTS and kind != "refusal":
        text = part.get("text")
        sent_as = "output_text" if role == "assistant" else "input_text"
        return {"type": sent_as, "text": text} if isinstance(text, str) and text else None
    if kind == "refusal":
        refusal = str(part.get("refusal") or "")
        if not refusal:
            return None
        if role == "assistant":
            return {"type": "refusal", "refusal": refusal}
        return {"type": "input_text", "text": refusal}
    keys = _INPUT_PARTS.get(str(kind))
    if keys is None or role == "assistant":
        return None
    return {"type": kind, **{key: part[key] for key in keys if part.get(key) is not None}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """A choice of an `mcp` tool names a tool that the runtime runs: a function to OpenAI. So does Chat's shape."""
    if isinstance(choice, str):
        return choice
    if choice.get("type") == "allowed_tools":
        tools = [_function(tool) for tool in choice.get("tools", ()) if tool.get("name")]
        return {"type": "allowed_tools", "mode": choice.get("mode", "auto"), "tools": tools}
    return _function(choice)


def _function(choice: Mapping[str, Any]) -> dict[str, Any]:
    nested = choice.get("function")
    name = nested.get("name") if isinstance(nested, Mapping) else choice.get("name")
    return {"type": "function", "name": name}


class Reply:
    """One streamed reply. Feed it the events in order; it is over when a `Finished` comes out."""

    def __init__(self) -> None:
        self._called = False

    def feed(self, event: Mapping[str, Any]) -> list[ModelEvent]:
        """Translate one event; unknown types give nothing. Raises `ModelError` for an error or a malformed event."""
        kind = event.get("type")
        match kind:
            case "response.output_text.delta":
                delta = failure.text(PROVIDER, event, "delta")
                return [TextDelta(delta)] if delta else []
            case "response.refusal.delta":
                delta = failure.text(PROVIDER, event, "delta")
                return [RefusalDelta(delta)] if delta else []
            case "response.output_item.done":
                return self._item(failure.table(PROVIDER, event, "item"))
            case "response.completed":
                usage = _usage(failure.table(PROVIDER, event, "response"))
                return [Finished("tool_calls" if self._called else "stop", usage)]
            case "response.incomplete":
                response = failure.table(PROVIDER, event, "response")
                details = response.get("incomplete_details")
                reason = details.get("reason") if isinstance(details, dict) else None
                filtered = reason == "content_filter"
                return [Finished("content_filter" if filtered else "length", _usage(response))]
            case "response.failed":
                error = failure.table(PROVIDER, event, "response").get("error")
                raise error_of(error if isinstance(error, dict) else {})
            case "error":
                raise error_of(event)
            case str():
                return []
            case _:
                raise failure.broken(PROVIDER, "malformed event: no type")

    def end(self) -> Sequence[ModelEvent]:
        """A reply that is over without its last event was cut."""
        return ()

    def _item(self, item: Mapping[str, Any]) -> list[ModelEvent]:
        kind = item.get("type")
        if kind == "reasoning":
            data = {key: item[key] for key in ("summary", "content") if item.get(key)}
            private = {key: item[key] for key in ("id", "encrypted_content") if item.get(key)}
            return [ReasoningDone({"type": "reasoning", "summary": [], **data}, {"data": private})]
        # An incomplete call was cut by the token limit: its arguments are not what the model meant.
        if kind == "function_call" and item.get("status") != "incomplete":
            self._called = True
            call_id, name = (failure.text(PROVIDER, item, key) for key in ("call_id", "name"))
            return [ToolCall(call_id, name, failure.text(PROVIDER, item, "arguments") or "{}")]
        return []


def error_of(error: Mapping[str, Any]) -> ModelError:
    """The `ModelError` for an error object inside a stream (`{"code": ..., "message": ..., "param": ...}`)."""
    code = str(error.get("code") or error.get("type") or "")
    words = {"code": code, "param": error.get("param")}
    if code.startswith("rate_limit"):
        return failure.from_status(PROVIDER, 429, words)
    refused = code.startswith(_INVALID_PREFIXES) or code.endswith(_POLICY_SUFFIXES)
    if refused and code not in _RETRYABLE_CODES:
        return failure.from_status(PROVIDER, 400, words)
    return failure.from_status(PROVIDER, 500, words)


def _usage(response: Mapping[str, Any]) -> Usage | None:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=failure.number(usage, "input_tokens"),
        output_tokens=failure.number(usage, "output_tokens"),
        cached_tokens=failure.number(usage, "input_tokens_details", "cached_tokens"),
        reasoning_tokens=failure.number(usage, "output_tokens_details", "reasoning_tokens"),
        written_tokens=failure.number(usage, "input_tokens_details", "cache_write_tokens"),
    )
