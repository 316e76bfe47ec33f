"""The wire format of OpenAI's chat completions, as many servers speak it: parameters and stream chunks. Pure.

Servers differ in what they accept, so what is optional is sent only when it is asked for, and text goes as a string.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

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
)
from agentrt.models.choice import chosen, offered
from agentrt.models.conversation import Call, Step, conversation, unanswered
from agentrt.records import Item, Usage

__all__ = ["PROVIDER", "Reply", "messages", "parameters"]

PROVIDER = "openai-chat"

_Reason = Literal["stop", "tool_calls", "length", "content_filter"]
_REASONS: dict[str, _Reason] = {"length": "length", "content_filter": "content_filter"}


def parameters(name: str, request: ModelRequest) -> dict[str, Any]:
    """The body of a request; unset options are left out."""
    sent = messages(request.items)
    if request.instructions:
        sent.insert(0, {"role": "system", "content": request.instructions})
    params: dict[str, Any] = {
        "model": name,
        "messages": sent,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tools = _tools(request)
    if tools:
        params["tools"] = tools
        if request.tool_choice != "auto":
            params["tool_choice"] = _tool_choice(request.tool_choice)
        if not request.parallel_tool_calls:
            params["parallel_tool_calls"] = False
    if request.max_output_tokens is not None:
        params["max_tokens"] = request.max_output_tokens
    for option in ("temperature", "top_p"):
        value = getattr(request, option)
        if value is not None:
            params[option] = value
    if request.text_format is not None and request.text_format.get("type") != "text":
        params["response_format"] = _format(request.text_format)
    if effort := (request.reasoning or {}).get("effort"):
        params["reasoning_effort"] = effort
    return params


def messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The conversation as chat messages: each step's calls in one message, then a message for each result.

    Raises `Unsupported` for new content that has no place in this format; in older messages a text stands for it.
    """
    entries = conversation(items, PROVIDER)
    new = unanswered(entries)
    sent: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, Step):
            sent.extend(_step(entry))
            continue
        role = "user" if entry.role == "user" else "system"
        content = _content(entry.content, strict=number >= new)
        if content:
            sent.append({"role": role, "content": content})
    return sent


def _step(step: Step) -> Iterable[dict[str, Any]]:
    said: dict[str, Any] = {"role": "assistant", "content": _text(step.messages) or None}
    if step.calls:
        said["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in step.calls
        ]
    if said["content"] or step.calls:
        yield said
    for call in step.calls:
        yield {"role": "tool", "tool_call_id": call.call_id, "content": _output(call)}


def _output(call: Call) -> str:
    text = _text(call.output) if isinstance(call.output, list) else call.output
    return f"Error: {text}" if call.failed else text


def _text(content: Iterable[Mapping[str, Any]]) -> str:
    """The text of content parts, with a stand-in for what is no text."""
    found = _content(content, strict=False, plain=True)
    return found if isinstance(found, str) else ""


def _content(content: Iterable[Mapping[str, Any]], *, strict: bool, plain: bool = False) -> str | list[dict[str, Any]]:
    """Content parts: a string where all of it is text. `strict`: what cannot be sent is an error."""
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = str(part.get("type"))
        if kind in {"input_text", "output_text", "text", "refusal"}:
            text = part.get("refusal" if kind == "refusal" else "text")
            if isinstance(text, str) and text:
                parts.append({"type": "text", "text": text})
            continue
        shown = None if plain else _shown(part, kind)
        if shown is None and strict:
            raise failure.unsupported(PROVIDER, f"content of type {kind} in this form")
        parts.append(shown or {"type": "text", "text": f"[{kind.removeprefix('input_')} cannot be shown]"})
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _shown(part: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """An image or a file in Chat's shape; None where it has none: images by URL only, files never by URL."""
    if kind == "input_image" and isinstance(url := part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": url, **detail}}
    if kind == "input_file":
        file = {key: part[key] for key in ("file_data", "file_id", "filename") if part.get(key)}
        return {"type": "file", "file": file} if "file_data" in file or "file_id" in file else None
    return None


def _tools(request: ModelRequest) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                **({"strict": True} if tool.strict else {}),
            },
        }
        for tool in offered(request)
    ]


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, str):
        return choice
    if choice.get("type") == "allowed_tools":
        return str(choice.get("mode", "auto"))
    return {"type": "function", "function": {"name": chosen(choice)}}


def _format(text_format: Mapping[str, Any]) -> dict[str, Any]:
    if text_format.get("type") != "json_schema":
        return dict(text_format)
    return {"type": "json_schema", "json_schema": {key: text_format[key] for key in text_format if key != "type"}}


@dataclass(slots=True)
class _Called:
    """A tool call that is being streamed."""

    call_id: str
    name: str
    arguments: str = ""


class Reply:
    """One streamed reply. Feed it the chunks in order; the calls come when it ends, and then a `Finished`."""

    def __init__(self) -> None:
        self._calls: list[_Called] = []
        self._open: dict[int, _Called] = {}
        """The newest call of each index."""
        self._thoughts: list[str] = []
        self._reason: str | None = None
        self._usage: Usage | None = None

    def feed(self, event: Mapping[str, Any]) -> list[ModelEvent]:
        """Translate one chunk. Raises `ModelError` for an error or a malformed chunk."""
        if event.get("error"):
            raise _error_of(event["error"])
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = _usage(usage)
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise failure.broken(PROVIDER, "malformed event: no choices")
        if not choices:
            return []
        choice = choices[0]
        if not isinstance(choice, dict):
            raise failure.broken(PROVIDER, "malformed event: a choice is not an object")
        said = self._delta(choice.get("delta") or {})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._reason = reason
        return said

    def end(self) -> Sequence[ModelEvent]:
        """What is left to be said; nothing where no reason for the end was given, for that is a cut."""
        if self._reason is None:
            return ()
        reason = _REASONS.get(self._reason, "stop")
        calls = [ToolCall(call.call_id, call.name, call.arguments or "{}") for call in self._calls]
        if reason != "stop":  # cut arguments are not what the model meant
            calls = [call for call in calls if _parses(call.arguments)]
        if calls and reason == "stop":
            reason = "tool_calls"
        return [*self._thought(), *calls, Finished(reason, self._usage)]

    def _delta(self, delta: Any) -> list[ModelEvent]:
        if not isinstance(delta, dict):
            raise failure.broken(PROVIDER, "malformed event: delta is not an object")
        for key in ("reasoning_content", "reasoning"):  # no part of the format, but common
            if isinstance(thought := delta.get(key), str):
                self._thoughts.append(thought)
                break
        said: list[ModelEvent] = []
        for key, kind in (("content", TextDelta), ("refusal", RefusalDelta)):
            if delta.get(key):
                said += [*self._thought(), kind(failure.text(PROVIDER, delta, key))]
        for call in delta.get("tool_calls") or ():
            self._call(call)
        return said

    def _thought(self) -> list[ModelEvent]:
        text = "".join(self._thoughts)
        self._thoughts.clear()
        if not text:
            return []
        return [ReasoningDone({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]})]

    def _call(self, piece: Any) -> None:
        """A piece of a call. Its index is optional at some servers, or 0 for all calls, and its id is optional too."""
        if not isinstance(piece, dict) or not isinstance(function := piece.get("function"), dict):
            raise failure.broken(PROVIDER, "malformed event: a tool call is not an object")
        index = piece.get("index")
        if not isinstance(index, int):
            index = len(self._calls) if function.get("name") else len(self._calls) - 1
        call, told = self._open.get(index), piece.get("id")
        if call is None or (told and str(told) != call.call_id and function.get("name")):
            call_id = str(told or f"call_{secrets.token_hex(12)}")
            call = self._open[index] = _Called(call_id, failure.text(PROVIDER, function, "name"))
            self._calls.append(call)
        if function.get("arguments"):
            call.arguments += failure.text(PROVIDER, function, "arguments")


def _parses(arguments: str) -> bool:
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return False
    return True


def _error_of(error: Any) -> ModelError:
    """The `ModelError` for an error in the midst of a stream, worth a retry unless it bears a status that says no."""
    words = error if isinstance(error, Mapping) else {}
    status = words.get("code") if isinstance(words.get("code"), int) else 500
    if "rate_limit" in str(words.get("type") or "") or "rate_limit" in str(words.get("code") or ""):
        status = 429
    return failure.from_status(PROVIDER, status or 500, {"type": words.get("type"), "code": words.get("code")})


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=failure.number(usage, "prompt_tokens"),
        output_tokens=failure.number(usage, "completion_tokens"),
        cached_tokens=failure.number(usage, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=failure.number(usage, "completion_tokens_details", "reasoning_tokens"),
    )
