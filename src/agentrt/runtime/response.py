"""The response as clients see it: the body with all required fields, and the events that tell how it came about.

Pure. The shapes are those of the Open Responses schema; the openai client in strict mode validates them (tests/http).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from agentrt.records import Request, Usage

__all__ = ["TERMINAL_EVENTS", "body", "error_body", "item_events", "replay", "response_id", "terminal_event"]

_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "temperature": 1.0,
    "reasoning": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "background": False,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
    "metadata": {},
    "tools": [],
}


def response_id(session: str, run: str) -> str:
    """`resp_` + session + run: it routes itself."""
    return f"resp_{session}{run}"


def body(
    request: Request,
    identifier: str,
    status: str,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Usage | None = None,
    **ending: Any,
) -> dict[str, Any]:
    """The response object. `ending`: `error`, `incomplete_details`, `completed_at` and notes for its `metadata`."""
    result: dict[str, Any] = {
        "id": identifier,
        "object": "response",
        "created_at": request.created_s,
        "completed_at": ending.get("completed_at"),
        "status": status,
        "incomplete_details": ending.get("incomplete_details"),
        "error": ending.get("error"),
        "model": request.agent,
        "previous_response_id": request.previous or None,
        "conversation": {"id": request.conversation} if request.conversation else None,
        "output": output,
        "usage": _usage(usage) if usage is not None else None,
    }
    result.update(_DEFAULTS)
    result.update({name: value for name, value in request.options.items() if name in _DEFAULTS})
    notes = ending.get("metadata")
    if notes:
        result["metadata"] = {**result["metadata"], **notes}
    return result


def error_body(code: str, message: str) -> dict[str, str]:
    """`response.error`; `code` from the API's closed set."""
    return {"code": code, "message": message}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def terminal_event(status: str) -> str:
    """The event that ends the stream of a response with that status; `cancelled` ends as `incomplete`, since clients
    know no event for it."""
    return {"completed": "response.completed", "failed": "response.failed"}.get(status, "response.incomplete")


TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})

Event = tuple[str, dict[str, Any]]


def item_events(index: int, item: Mapping[str, Any]) -> Iterator[Event]:
    """All events of a finished item, from `added` to `done`."""
    yield opening(index, item)
    yield from closing(index, item, opened=False)


def opening(index: int, item: Mapping[str, Any]) -> Event:
    """`output_item.added` with the item as it begins."""
    empty = dict(item)
    empty["status"] = "in_progress"
    match item["type"]:
        case "message":
            empty["content"] = []
        case "mcp_call":
            empty.update(output=None, error=None, arguments="")
        case "function_call":
            empty["arguments"] = ""
        case "reasoning":
            empty["summary"] = []
    return "response.output_item.added", {"output_index": index, "item": empty}


def part_opening(index: int, item_id: str, kind: str) -> Event:
    """`content_part.added` for a text or a refusal."""
    part: dict[str, Any] = (
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        if kind == "output_text"
        else {"type": "refusal", "refusal": ""}
    )
    return "response.content_part.added", {
        "output_index": index,
        "item_id": item_id,
        "content_index": 0,
        "part": part,
    }


def delta(index: int, item_id: str, kind: str, text: str) -> Event:
    """More text of a message."""
    at: dict[str, Any] = {"output_index": index, "item_id": item_id, "content_index": 0, "delta": text}
    if kind == "output_text":
        at["logprobs"] = []
        return "response.output_text.delta", at
    return "response.refusal.delta", at


def closing(index: int, item: Mapping[str, Any], *, opened: bool) -> Iterator[Event]:
    """The events that close an item. `opened`: its content part was opened and its deltas were sent before."""
    at = {"output_index": index, "item_id": item["id"]}
    match item["type"]:
        case "message":
            for part in item["content"]:
                kind = part["type"]
                text = part["text"] if kind == "output_text" else part["refusal"]
                if not opened:
                    yield part_opening(index, item["id"], kind)
                    yield delta(index, item["id"], kind, text)
                if kind == "output_text":
                    yield "response.output_text.done", {**at, "content_index": 0, "text": text, "logprobs": []}
                else:
                    yield "response.refusal.done", {**at, "content_index": 0, "refusal": text}
                yield "response.content_part.done", {**at, "content_index": 0, "part": part}
        case "mcp_call":
            if not opened:
                yield from mcp_opening(index, item)
            kind = "completed" if item["status"] == "completed" else "failed"
            yield f"response.mcp_call.{kind}", at
        case "function_call":
            yield "response.function_call_arguments.delta", {**at, "delta": item["arguments"]}
            yield (
                "response.function_call_arguments.done",
                {**at, "name": item["name"], "arguments": item["arguments"]},
            )
    yield "response.output_item.done", {"output_index": index, "item": item}


def mcp_opening(index: int, item: Mapping[str, Any]) -> Iterator[Event]:
    """A server-run call has begun: its arguments are known in whole."""
    at = {"output_index": index, "item_id": item["id"]}
    yield "response.mcp_call.in_progress", at
    yield "response.mcp_call_arguments.delta", {**at, "delta": item["arguments"]}
    yield "response.mcp_call_arguments.done", {**at, "arguments": item["arguments"]}


def replay(result: bytes) -> Iterator[bytes]:
    """The events of a response that nobody saw coming about: made from its final body, the same ones every time."""
    final = orjson.loads(result)
    begun = {**final, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    begun.update(error=None, incomplete_details=None)
    events: list[Event] = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
    for index, item in enumerate(final["output"]):
        events += item_events(index, item)
    events.append((terminal_event(final["status"]), {"response": final}))
    for number, (kind, fields) in enumerate(events):
        yield orjson.dumps({"type": kind, "sequence_number": number, **fields})
