"""The agents of the chaos, which tell what they answered to; and the world that their tools act upon.

The world is a SQLite file, one row for each execution that really happened. As a downstream that agentrt is made for,
it refuses a fencing token lower than one that it has seen for the same key: what a pod began before it was stopped, and
sends when it wakes, comes too late.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from agentrt.agent import Agent, Effect, Limits, ToolContext
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.models.scripted import SCRIPTS, texts
from agentrt.tools.function import tool
from loadtest.chaos.history import FIRST

__all__ = ["agents", "calls", "words"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (id INTEGER PRIMARY KEY, tool TEXT, idempotency_key TEXT, fence INTEGER, pod TEXT,
  at REAL DEFAULT ((julianday('now') - 2440587.5) * 86400.0));
CREATE INDEX IF NOT EXISTS by_key ON effects (idempotency_key);
CREATE TABLE IF NOT EXISTS fences (idempotency_key TEXT PRIMARY KEY, fence INTEGER);
"""


@contextmanager
def _fenced(ctx: ToolContext) -> Iterator[sqlite3.Connection]:
    """One transaction of the world, for who bears the highest fence of this key."""
    path = os.environ["AGENTRT_DEMO_DB"]
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as world:
        world.executescript(_SCHEMA)
        world.execute("BEGIN IMMEDIATE")
        world.execute(
            "INSERT INTO fences VALUES (?, ?) ON CONFLICT DO UPDATE SET fence = max(fence, excluded.fence)",
            (ctx.idempotency_key, ctx.fencing_token),
        )
        (fence,) = world.execute(
            "SELECT fence FROM fences WHERE idempotency_key = ?", (ctx.idempotency_key,)
        ).fetchone()
        if fence > ctx.fencing_token:
            raise PermissionError("somebody came later, and was here before")
        yield world
        world.execute("COMMIT")


def _find(ctx: ToolContext) -> int | None:
    """The row of an effect, and nobody earlier can make it any more."""
    with _fenced(ctx) as world:
        row = world.execute("SELECT id FROM effects WHERE idempotency_key = ?", (ctx.idempotency_key,)).fetchone()
    return int(row[0]) if row else None


def _happen(ctx: ToolContext, *, deduplicated: bool = False) -> int:
    """One execution: a row more, or the same row again where the world deduplicates."""
    with _fenced(ctx) as world:
        found = "SELECT id FROM effects WHERE idempotency_key = ?"
        row = world.execute(found, (ctx.idempotency_key,)).fetchone() if deduplicated else None
        if row is None:
            inserted = world.execute(
                "INSERT INTO effects (tool, idempotency_key, fence, pod) VALUES (?, ?, ?, ?) RETURNING id",
                (ctx.tool, ctx.idempotency_key, ctx.fencing_token, ctx.pod),
            )
            row = inserted.fetchone()
    return int(row[0])


@tool(timeout=60)
async def book(ctx: ToolContext) -> str:
    """Book once, at most; the world can be asked."""
    await asyncio.sleep(0.05)
    number = await asyncio.to_thread(_happen, ctx)
    await asyncio.sleep(0.05)
    return f"booked {number}"


@book.reconcile(conclusive=True)
def find_booking(ctx: ToolContext) -> str | None:
    """Ask the world."""
    number = _find(ctx)
    return None if number is None else f"booked {number}"


@tool(timeout=60)
async def wire(ctx: ToolContext) -> str:
    """Wire money, at most once: it takes a while before and after, and nobody can ask whether it happened."""
    await asyncio.sleep(0.2)
    number = await asyncio.to_thread(_happen, ctx)
    await asyncio.sleep(0.2)
    return f"wired {number}"


@tool(effect=Effect.IDEMPOTENT)
async def note(ctx: ToolContext) -> str:
    """Note once; the world deduplicates by key."""
    return f"noted {await asyncio.to_thread(lambda: _happen(ctx, deduplicated=True))}"


@tool(effect=Effect.READ_ONLY)
async def read() -> str:
    """Read something."""
    return "read"


TOOLS = {one.name: one for one in (book, wire, note, read)}


def calls(said: Sequence[str]) -> list[str]:
    """The tools that the last message names behind its colon."""
    return [word for word in said[-1].partition(":")[2].split() if word in TOOLS]


def words(said: Sequence[str]) -> tuple[str, str]:
    """The answer when they have been called: what the last message came after."""
    return "after ", said[-2] if len(said) > 1 else FIRST


def talk(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Calls the tools, all at once; then answers. Its pauses are those of the message.

    As real models do, it gives its calls other ids whenever it is asked again.
    """
    said = [texts(item) for item in request.items if item.data.get("role") == "user"]
    yield zlib.crc32(said[-1].encode()) % 80 / 1000
    if request.items[-1].type != "mcp_call":
        names = calls(said)
        for number, name in enumerate(names):
            yield ToolCall(f"call-{number}-{secrets.token_hex(4)}", name, "{}")
        if names:
            return
    for word in words(said):
        yield TextDelta(word)
        yield 0.01


SCRIPTS["talk"] = talk

_TOOLS = list(TOOLS.values())
agents = [
    Agent("talk", model="scripted:talk", tools=_TOOLS),
    # The same of a provider that has bad days, which its client is told of soon.
    Agent("ask", model="openai:ask", tools=_TOOLS, limits=Limits(model_attempts=2, model_wait_s=1.0)),
]
