"""The demo: two agents, and a small world outside of Redis in which every effect that really happened leaves a row."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.tools.function import tool

__all__ = ["agents"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tool TEXT NOT NULL, args TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    fencing_token INTEGER NOT NULL, pod TEXT NOT NULL, at REAL NOT NULL)
"""


def _world() -> sqlite3.Connection:
    """The world: a SQLite file, durable at every commit. One connection a call: tools run in threads."""
    path = Path(os.environ.get("AGENTRT_DEMO_DB") or ".agentrt/demo.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(_SCHEMA)
    return connection


def _happen(ctx: ToolContext, args: str) -> int:
    """An effect happens: one row for each execution."""
    world = _world()
    try:
        cursor = world.execute(
            "INSERT INTO effects (tool, args, idempotency_key, fencing_token, pod, at) VALUES (?, ?, ?, ?, ?, ?)",
            (ctx.tool, args, ctx.idempotency_key, ctx.fencing_token, ctx.pod, time.time()),
        )
        return int(cursor.lastrowid or 0)
    finally:
        world.close()


def _find(key: str) -> int | None:
    """The row of an effect, by its idempotency key."""
    world = _world()
    try:
        row = world.execute("SELECT id FROM effects WHERE idempotency_key = ?", (key,)).fetchone()
        return int(row[0]) if row else None
    finally:
        world.close()


@tool(effect=Effect.READ_ONLY)
def get_order(order_id: str) -> dict[str, Any]:
    """Look up an order."""
    return {"order_id": order_id, "status": "shipped", "cents": 100 * (1 + sum(order_id.encode()) % 90)}


@tool(effect=Effect.IDEMPOTENT)
def refund(ctx: ToolContext, order_id: str, cents: int) -> str:
    """Refund an order. The payment provider deduplicates by the idempotency key, as real ones do."""
    known = _find(ctx.idempotency_key)
    number = known if known is not None else _happen(ctx, f"{order_id} {cents}")
    return f"refund {number} of {cents} cents for order {order_id}"


@tool
def create_ticket(ctx: ToolContext, title: str) -> str:
    """Open a support ticket."""
    return f"ticket {_happen(ctx, title)}: {title}"


@create_ticket.reconcile(conclusive=True)
def find_ticket(ctx: ToolContext, title: str) -> str | None:
    """Ask the world whether the ticket was opened."""
    number = _find(ctx.idempotency_key)
    return None if number is None else f"ticket {number}: {title}"


@tool(timeout=600.0)
async def create_slow_ticket(ctx: ToolContext, seconds: float, title: str) -> str:
    """Open a support ticket slowly: `seconds` pass before its row is written, and again after."""
    await asyncio.sleep(seconds)
    number = await asyncio.to_thread(_happen, ctx, title)
    await asyncio.sleep(seconds)
    return f"ticket {number}: {title}"


@create_slow_ticket.reconcile(conclusive=True)
def find_slow_ticket(ctx: ToolContext, seconds: float, title: str) -> str | None:  # noqa: ARG001 - the tool's own parameters
    """Ask the world whether the ticket was opened."""
    number = _find(ctx.idempotency_key)
    return None if number is None else f"ticket {number}: {title}"


def _model() -> str:
    """A real model when its key is there, else the script."""
    if os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("AGENTRT_ANTHROPIC_API_KEY"):
        return "anthropic:" + (os.environ.get("AGENTRT_DEMO_ANTHROPIC_MODEL") or "claude-sonnet-4-5")
    if os.environ.get("OPENAI_API_KEY") or os.environ.get("AGENTRT_OPENAI_API_KEY"):
        return "openai:" + (os.environ.get("AGENTRT_DEMO_OPENAI_MODEL") or "gpt-5-mini")
    return "scripted:support"


agents = [
    Agent("echo", model="scripted:echo"),
    Agent(
        "support",
        model=_model(),
        instructions="You are a friendly support agent of a small shop. Use the tools; be brief.",
        tools=[get_order, refund, create_ticket, create_slow_ticket],
    ),
]
