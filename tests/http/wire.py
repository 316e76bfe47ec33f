"""What the tests of the HTTP surface share: reading server-sent events, histories, and the demo's sink."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import redis

from agentrt.store.keys import SessionKeys

UNKNOWN = "0123456789ABCDEFGHIJKL"
"""Shaped like an id of ours, and nobody's."""


@dataclass(frozen=True)
class Event:
    """One frame of an event stream: the SSE `event:` and the JSON of `data:`."""

    kind: str
    data: dict[str, Any]


def events_of(text: str) -> list[Event]:
    """The events of a whole stream. Fails unless it is made of event frames, comments, and `[DONE]` at the end."""
    assert text.endswith("data: [DONE]\n\n")
    events = []
    for block in text.removesuffix("data: [DONE]\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 2, block
        kind, data = lines
        assert kind.startswith("event: "), block
        assert data.startswith("data: "), block
        events.append(Event(kind.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
    return events


class Live:
    """A POST with `stream` whose events are read one at a time."""

    def __init__(self, response: httpx2.Response) -> None:
        self.text = ""
        self._lines = response.aiter_lines()

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to the first event of that type; its data."""
        async for line in self._lines:
            self.text += line + "\n"
            if line == f"event: {kind}":
                data = await anext(self._lines)
                self.text += data + "\n"
                event: dict[str, Any] = orjson.loads(data.removeprefix("data: "))
                return event
        raise AssertionError(f"no {kind} in {self.text}")

    async def rest(self) -> list[Event]:
        """Read to the end; all events from the first one on."""
        async for line in self._lines:
            self.text += line + "\n"
        return events_of(self.text)


def unique(text: str) -> str:
    """`text` with something that no other test says."""
    return f"{text} {uuid.uuid4().hex[:12]}"


async def say(client: httpx2.AsyncClient, said: Any, /, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """POST /v1/responses to the demo's support agent."""
    return await client.post("/v1/responses", json={"model": "support", "input": said, **body}, headers=headers)


async def new_conversation(client: httpx2.AsyncClient, **body: Any) -> str:
    """The id of a new conversation."""
    created = await client.post("/v1/conversations", json=body)
    assert created.status_code == 200, created.text
    return str(created.json()["id"])


async def history(client: httpx2.AsyncClient, conversation: str) -> list[dict[str, Any]]:
    """The items of a conversation, oldest first."""
    listed = await client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc", "limit": 100})
    assert listed.status_code == 200, listed.text
    items: list[dict[str, Any]] = listed.json()["data"]
    return items


def words(item: dict[str, Any]) -> str:
    """The text of a message, the name of a call."""
    if item["type"] != "message":
        return str(item["name"])
    return "".join(part["text"] for part in item["content"])


async def spoken(client: httpx2.AsyncClient, conversation: str) -> list[str]:
    """What the history says, oldest first."""
    return [words(item) for item in await history(client, conversation)]


def answer(response: httpx2.Response) -> str:
    """The text of a response that completed."""
    body = response.json()
    assert response.status_code == 200, response.text
    assert body["status"] == "completed"
    return words(body["output"][-1])


def conversation_of(response_id: str) -> str:
    """The conversation that a response is part of: its id says so."""
    return "conv_" + response_id.removeprefix("resp_")[:22]


def rows(sink: Path, like: str) -> list[str]:
    """The idempotency keys of the effects that really happened with arguments like that."""
    world = sqlite3.connect(sink, timeout=10)
    try:
        found = world.execute("SELECT idempotency_key FROM effects WHERE args = ?", (like,)).fetchall()
    except sqlite3.OperationalError:
        return []  # nothing ever happened: there is no table
    finally:
        world.close()
    return [key for (key,) in found]


async def eventually(check: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Wait until `check` holds, for what no event tells."""
    async with asyncio.timeout(timeout_s):
        while not await check():
            await asyncio.sleep(0.01)


async def in_line(client: redis.Redis, conversation: str, count: int) -> None:
    """Wait until `count` messages wait in line for a conversation of the tenant `dev`."""
    key = SessionKeys("dev", conversation.removeprefix("conv_")).hash

    async def stands() -> bool:
        return len(orjson.loads(client.hget(key, "waiters") or b"[]")) == count

    await eventually(stands)
