"""Models that follow a script: deterministic, without an account. For the demo and for tests, and named as such."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

import orjson

from agentrt.models.base import Finished, ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.records import Item, Usage

__all__ = ["SCRIPTS", "Script", "ScriptedModel", "last_user_text", "texts"]

Script = Callable[[ModelRequest], Iterable[ModelEvent | float]]
"""What the model answers; a number is a pause in seconds; a script without `Finished` gets a fitting one."""


class ScriptedModel:
    """A model that answers by a function of the request alone."""

    provider = "scripted"

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self._script = script

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Yield the script's events."""
        asked = False
        size = 0
        for event in self._script(request):
            if isinstance(event, float):
                await asyncio.sleep(event)
                continue
            asked = asked or isinstance(event, ToolCall)
            size += len(event.text) if isinstance(event, TextDelta) else 0
            yield event
            if isinstance(event, Finished):
                return
        tokens_in = len(last_user_text(request.items)) // 4 + 1  # of what was said last: a script has no real costs
        yield Finished("tool_calls" if asked else "stop", Usage(tokens_in, size // 4 + 1))

    async def aclose(self) -> None:
        """Nothing to release."""


def texts(item: Item) -> str:
    """The text of a message item."""
    content: Any = item.data.get("content", "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def last_user_text(items: Sequence[Item]) -> str:
    """What the user said last."""
    for item in reversed(items):
        if item.type == "message" and item.data.get("role") == "user":
            return texts(item)
    return ""


def echo(request: ModelRequest) -> Iterable[ModelEvent]:
    """`echo: <last user text>`, in one piece."""
    yield TextDelta(f"echo: {last_user_text(request.items)}")


_NAME = re.compile(r"\bmy name is ([^\W\d_][\w'-]*)", re.IGNORECASE)
_ASK_NAME = re.compile(r"\bwhat(?:'s| is) my name\b", re.IGNORECASE)
_TICKET = re.compile(r"^open a ticket: *(?P<title>.+)$", re.IGNORECASE | re.DOTALL)
_SLOW = re.compile(r"^open a slow ticket (?P<seconds>\d+(?:\.\d+)?): *(?P<title>.+)$", re.IGNORECASE | re.DOTALL)
_REFUND = re.compile(r"^refund order (?P<order_id>\S+) (?P<cents>\d+)$", re.IGNORECASE)
_LOOK_UP = re.compile(r"^look up order (?P<order_id>\S+)$", re.IGNORECASE)
_COUNT = re.compile(r"^count to (?P<n>\d{1,5})$", re.IGNORECASE)
_REMEMBER = re.compile(r"^(?:please )?remember that (?P<fact>.+)$", re.IGNORECASE | re.DOTALL)
_NAME_FACT = re.compile(r"^- name: (\S+) \(", re.MULTILINE)
_NOTE_FACT = re.compile(r"^- note: (.+) \(\d{4}-\d\d-\d\d\)$|^- \[.*?, user\] remember that (.+)$", re.MULTILINE)
"""How a remembered name, a note, and a message that was recalled stand in the context."""
_RECALL = re.compile(r"^what do you remember about (?P<query>.+?)\??$", re.IGNORECASE | re.DOTALL)


def support(request: ModelRequest) -> Iterable[ModelEvent]:
    """The demo's support agent: understands a handful of sentences, and answers from its context only."""
    said = last_user_text(request.items).strip()
    last = request.items[-1] if request.items else None
    if last is not None and last.type == "mcp_call":
        yield from _words(_report(last.data))
    elif call := _tool_call(said):
        yield call
    elif count := _COUNT.match(said):
        for number in range(1, int(count["n"]) + 1):
            yield TextDelta(f"{number} ")
    elif _ASK_NAME.search(said):
        yield from _words(_known_name(request.items))
    elif name := _NAME.search(said):
        yield from _words(f"Nice to meet you, {name[1]}.")
    elif fact := _REMEMBER.match(said):
        yield from _words(f"I will remember that {fact['fact'].rstrip('.')}.")
    elif query := _RECALL.match(said):
        yield from _words(_remembered(request.items, query["query"]))
    else:
        yield from _words(
            "I am the scripted demo model. Try: `my name is Ada`, `what is my name`, `open a ticket: printer on fire`, "
            "`refund order A1 500`, `look up order A1`, `count to 20`."
        )


def _words(text: str) -> Iterable[ModelEvent]:
    for word in re.findall(r"\S+\s*", text):
        yield TextDelta(word)


def _tool_call(said: str) -> ToolCall | None:
    rules: tuple[tuple[re.Pattern[str], str], ...] = (
        (_SLOW, "create_slow_ticket"),
        (_TICKET, "create_ticket"),
        (_REFUND, "refund"),
        (_LOOK_UP, "get_order"),
    )
    for pattern, name in rules:
        if match := pattern.match(said):
            arguments: dict[str, Any] = match.groupdict()
            for key, kind in (("cents", int), ("seconds", float)):
                if key in arguments:
                    arguments[key] = kind(arguments[key])
            return ToolCall(f"call_{name}", name, orjson.dumps(arguments).decode())
    return None


def _report(call: dict[str, Any]) -> str:
    if call.get("status") == "failed":
        return f"{call['name']} did not succeed: {call['output']}"
    return f"Done, {call['name']} says: {call['output']}"


def _known_name(items: Sequence[Item]) -> str:
    for item in reversed(items):
        if item.type == "message" and item.data.get("role") == "user":
            match = _NAME.search(texts(item))
            if match and not _ASK_NAME.search(texts(item)):
                return f"Your name is {match[1]}."
            if known := _NAME_FACT.search(texts(item)):
                return f"Your name is {known[1]}."
    return "I do not know your name yet."


def _remembered(items: Sequence[Item], query: str) -> str:
    words = {word for word in re.findall(r"\w+", query.casefold()) if len(word) > 2}
    for item in reversed(items):
        if item.data.get("role") != "user":
            continue
        match = _REMEMBER.match(texts(item).strip())
        told = [match["fact"]] if match else [fact for both in _NOTE_FACT.findall(texts(item)) for fact in both if fact]
        for fact in told:
            if words & set(re.findall(r"\w+", fact.casefold())):
                return f"You told me that {fact.rstrip('.')}."
    return "I remember nothing about that."


SCRIPTS: dict[str, Script] = {"echo": echo, "support": support}
"""The models `scripted:<name>`; a test or a demo of your own adds to it before its pods start."""
