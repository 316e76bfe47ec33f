"""Agents for tests: slow enough to be killed in the middle, with tools whose effects leave rows in the demo's world."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
from collections.abc import Iterable
from pathlib import Path

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.demo import _find, _happen
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.models.scripted import SCRIPTS, last_user_text
from agentrt.tools.function import tool


def slow(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """`echo: <text>`, word by word, 50 ms apart."""
    for word in re.findall(r"\S+\s*", f"echo: {last_user_text(request.items)}"):
        yield 0.05
        yield TextDelta(word)


def worker(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Calls the tools that the user names (`book note read`), all in one step, then says how they ended.

    As real models do, it gives its calls other ids whenever it is asked again.
    """
    last = request.items[-1]
    yield 0.05
    if last.type == "mcp_call":
        done = [item for item in request.items if item.type == "mcp_call" and item.private.get("step") == 0]
        calls = done[-len(last_user_text(request.items).split()) :]
        yield TextDelta(" ".join(str(item.data["output"]) for item in calls))
        return
    if last.data.get("role") == "developer":
        yield TextDelta("I see")
        return
    for number, name in enumerate(last_user_text(request.items).split()):
        yield ToolCall(f"call-{number}-{secrets.token_hex(4)}", name, "{}")


def teller(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Books, then tells as many words as the user names, 50 ms apart."""
    if request.items[-1].type != "mcp_call":
        yield 0.05
        yield ToolCall("call-0", "book", "{}")
        return
    for number in range(int(last_user_text(request.items))):
        yield 0.05
        yield TextDelta(f"w{number} ")


def fast(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """As many words as the user names, 4 ms apart."""
    for number in range(int(last_user_text(request.items))):
        yield 0.004
        yield TextDelta(f"w{number} ")


def poison(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Kills the pod that asks, as long as the file that the user names is there."""
    if Path(last_user_text(request.items)).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    yield TextDelta("survived")


@tool(timeout=60)
async def book(ctx: ToolContext) -> str:
    """Book once, at most."""
    await asyncio.sleep(0.05)
    number = await asyncio.to_thread(_happen, ctx, "")
    await asyncio.sleep(0.05)
    return f"booked-{number}"


@book.reconcile(conclusive=True)
def find_booking(ctx: ToolContext) -> str | None:
    """Ask the world."""
    number = _find(ctx.idempotency_key)
    return None if number is None else f"booked-{number}"


@tool(effect=Effect.IDEMPOTENT)
async def note(ctx: ToolContext) -> str:
    """Note once; the world deduplicates by key."""
    known = await asyncio.to_thread(_find, ctx.idempotency_key)
    number = known if known is not None else await asyncio.to_thread(_happen, ctx, "")
    return f"noted-{number}"


@tool(timeout=60)
async def once(ctx: ToolContext) -> str:
    """Do something once, at most; nobody can ask whether it happened."""
    return f"done-{await asyncio.to_thread(_happen, ctx, '')}"


@tool(timeout=60)
async def wire(ctx: ToolContext) -> str:
    """Wire money, at most once: it takes a while before and after, and nobody can ask whether it happened."""
    await asyncio.sleep(0.3)
    number = await asyncio.to_thread(_happen, ctx, "")
    await asyncio.sleep(0.3)
    return f"wired-{number}"


@tool(effect=Effect.READ_ONLY)
async def read() -> str:
    """Read something."""
    return "read"


@tool(in_doubt="block")
async def charge(ctx: ToolContext) -> str:
    """Charge a card over a connection that breaks: nobody knows whether it was charged."""
    raise ConnectionResetError("secret-4711")


SCRIPTS["slow"] = slow
SCRIPTS["worker"] = worker
SCRIPTS["teller"] = teller
SCRIPTS["fast"] = fast
SCRIPTS["poison"] = poison

agents = [
    Agent("echo", model="scripted:echo"),
    Agent("slow", model="scripted:slow"),
    Agent("worker", model="scripted:worker", tools=[book, note, once, wire, read, charge]),
    Agent("teller", model="scripted:teller", tools=[book]),
    Agent("fast", model="scripted:fast"),
    Agent("poison", model="scripted:poison"),
]
