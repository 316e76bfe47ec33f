"""Items in the order of the conversation -> what was said and what the model did, still of no provider. Pure.

Both providers want the calls of one step beside each other and every call answered; a conversation that breaks this
is refused for good. So the rules live here, once: what forms a step, which output belongs to which call, and that a
call without an output gets one which says that its outcome is unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentrt.records import Item

__all__ = ["INTERRUPTED", "Call", "Entry", "Said", "Step", "conversation", "parts", "unanswered"]

INTERRUPTED = "The call was interrupted. Its outcome is unknown: it may or may not have taken effect."
"""The output of a call that has none."""

_BEFORE = "Summary of this conversation so far:\n\n"

_RUN_CHARS = 22
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What both providers accept: OpenAI limits the length, Anthropic the alphabet."""

_Key = tuple[str, int] | None


@dataclass(slots=True)
class Call:
    """A tool call with its output: a string or a list of content parts."""

    call_id: str
    name: str
    arguments: str
    output: str | list[Any] = INTERRUPTED
    failed: bool = True


@dataclass(slots=True)
class Step:
    """What the model did at one go, in the order in which it must be sent back."""

    reasoning: list[dict[str, Any]] = field(default_factory=list)
    """The provider's own data of each reasoning item; `summary` is the item's public one."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """Content parts; with the `phase` of their message, where it had one."""
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True)
class Said:
    """A message that does not come from the model. `content` are content parts."""

    role: str
    content: list[dict[str, Any]]


Entry = Said | Step


def conversation(items: Iterable[Item], provider: str) -> list[Entry]:
    """Group `items`, oldest first, into messages and steps.

    Assistant-side items of the same run and step form one `Step`, as long as nobody else spoke in between. Items
    that bear no step (a client put them there) are taken together until a call of theirs is followed by something
    that is not a call. Reasoning of another provider, outputs without a call, and unknown types are left out; so is
    a step of nothing but reasoning, which both providers refuse.
    """
    grouping = _Grouping(provider)
    for item in items:
        grouping.add(item)
    return [entry for entry in grouping.entries if isinstance(entry, Said) or entry.messages or entry.calls]


def unanswered(entries: Sequence[Entry]) -> int:
    """Index of the first entry that no model has answered yet. What cannot be shown is refused there; in what lies
    before, which may come from a model that could, refusing it would freeze the conversation."""
    return next((number for number in range(len(entries), 0, -1) if isinstance(entries[number - 1], Step)), 0)


def parts(content: object) -> list[dict[str, Any]]:
    """The content parts of a message or of an output; a plain string is one `input_text`."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}] if content else []
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


class _Grouping:
    def __init__(self, provider: str) -> None:
        self.entries: list[Entry] = []
        self._provider = provider
        self._open: dict[_Key, Step] = {}
        self._unanswered: dict[str, Call] = {}
        self._used: set[str] = set()

    def add(self, item: Item) -> None:
        kind = item.type
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "mcp_call":
            call = self._call(item)
            call.output, call.failed = _outcome(item.data)
        elif kind == "function_call":
            public_id = str(item.data.get("call_id") or _item_id(item))
            self._unanswered[public_id] = self._call(item)
        elif kind == "function_call_output":
            self._output(item)
        elif kind == "compaction":
            self._compaction(item)

    def _message(self, item: Item) -> None:
        content = parts(item.data.get("content"))
        role = item.data.get("role")
        if not content or not isinstance(role, str):
            return
        if role == "assistant":
            phase = item.data.get("phase")
            self._step(item).messages.extend([{**part, "phase": phase} for part in content] if phase else content)
        elif role in {"user", "system", "developer"}:
            self.entries.append(Said(role, content))
            self._open.clear()

    def _compaction(self, item: Item) -> None:
        """What came before, as a message: it is data, and must not speak as the operator."""
        data = item.private.get("data")
        if isinstance(data, dict) and isinstance(data.get("summary"), str):
            self.entries.append(Said("user", [{"type": "input_text", "text": _BEFORE + data["summary"]}]))
            self._open.clear()

    def _reasoning(self, item: Item) -> None:
        data = item.private.get("data")
        if item.private.get("provider") == self._provider and isinstance(data, dict):
            self._step(item).reasoning.append({**data, "summary": item.data.get("summary") or []})

    def _call(self, item: Item) -> Call:
        data = item.data
        call_id = self._call_id(item)
        call = Call(call_id, str(data.get("name", "")), str(data.get("arguments") or "{}"))
        self._step(item, call=True).calls.append(call)
        return call

    def _output(self, item: Item) -> None:
        call = self._unanswered.pop(str(item.data.get("call_id")), None)
        if call is None:
            return
        output = item.data.get("output")
        call.output = parts(output) if isinstance(output, list) else str(output or "")
        call.failed = False
        step = self._open.get(None)
        if step is not None and any(one is call for one in step.calls):
            del self._open[None]

    def _step(self, item: Item, *, call: bool = False) -> Step:
        key = _key(item)
        step = self._open.get(key)
        if step is not None and key is None and step.calls and not call:
            step = None
        if step is None:
            step = self._open[key] = Step()
            self.entries.append(step)
        return step

    def _call_id(self, item: Item) -> str:
        """The provider's own id where it made this call, else one derived from the item; unique in the request."""
        own = item.private.get("call_id") if item.private.get("provider") == self._provider else None
        for candidate in (own, item.data.get("call_id")):
            if isinstance(candidate, str) and _CALL_ID.fullmatch(candidate) and candidate not in self._used:
                self._used.add(candidate)
                return candidate
        source = _item_id(item)
        derived = f"call_{source}"
        n = 0
        while not _CALL_ID.fullmatch(derived) or derived in self._used:
            derived = "call_" + hashlib.sha256(f"{source}/{n}".encode()).hexdigest()[:32]
            n += 1
        self._used.add(derived)
        return derived


def _item_id(item: Item) -> str:
    return str(item.data.get("id", ""))


def _key(item: Item) -> _Key:
    """Run and step of an item, None where it bears no step. An id is `<prefix>_<run, 22 characters><rest>`."""
    step = item.private.get("step")
    if not isinstance(step, int):
        return None
    _, _, rest = _item_id(item).partition("_")
    return rest[:_RUN_CHARS], step


def _outcome(data: dict[str, Any]) -> tuple[str, bool]:
    """The output of a server-run call, and whether it failed."""
    error = data.get("error")
    if error:
        if isinstance(error, str):
            return error, True
        told = error.get("message") if isinstance(error, dict) else None
        return (told if isinstance(told, str) and told else orjson.dumps(error).decode()), True
    output, status = data.get("output"), data.get("status")
    if isinstance(output, str):
        return output, status == "failed"
    if status == "completed":
        return "", False
    return ("The call failed." if status == "failed" else INTERRUPTED), True
