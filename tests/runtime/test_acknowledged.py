"""Runs whose replicas do not keep up: which of their steps wait, in a runtime in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from agentrt.agent import Agent, Effect, Limits
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.tools.function import tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running
from tests.store.stage import until

CALLS = ("note", "ticket", "note")
done: list[str] = []


@tool
async def ticket() -> str:
    """Must not happen twice."""
    done.append("ticket")
    return "opened"


@tool(effect=Effect.IDEMPOTENT)
async def note() -> str:
    """May be repeated."""
    done.append("note")
    return "noted"


def worker(request: ModelRequest) -> Iterable[ModelEvent | float]:
    if request.items[-1].type == "mcp_call":
        yield TextDelta("all done")
        return
    for number, name in enumerate(CALLS):
        yield ToolCall(f"call-{number}", name, "{}")


def echo(request: ModelRequest) -> Iterable[ModelEvent | float]:
    yield TextDelta("echo")


AGENTS = [
    Agent("worker", model="test:worker", tools=[note, ticket], limits=Limits(calls_in_parallel=1)),
    Agent("echo", model="test:echo"),
]
ANSWERS = {"worker": worker, "echo": echo}


@pytest.fixture(autouse=True)
def empty(redis_server: RedisServer) -> None:
    """Nothing is done so far; replicas get their copy at once."""
    done.clear()
    with redis_server.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)


async def status(runtime: Runtime, want: object) -> str:
    """The run's status, asked of Redis."""
    found, _, _ = await runtime.services.sessions.items_of(want.session, want.run)  # type: ignore[attr-defined]
    return found.decode() if found else ""


async def test_what_ran_before_is_kept_and_the_rest_happens_once(redis_url: str, redis_server: RedisServer) -> None:
    """One call at a time: the first is made and recorded, the second is put off with what stands behind it. When a
    replica is there, a later owner makes the two, and not the first again."""
    async with running(redis_url, AGENTS, ANSWERS, wait_replicas=1, wait_timeout_ms=50) as runtime:
        want = runtime.begin("worker", "go")
        assert await runtime.admission.run(await runtime.enter(want)) is None
        assert done == ["note"]
        with RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)):
            async with asyncio.timeout(60):
                while await status(runtime, want) != "completed":
                    await asyncio.sleep(0.05)
    assert done == ["note", "ticket", "note"]


async def test_without_waiting_all_of_it_happens_at_once(redis_url: str) -> None:
    """The control: no replica, and none is waited for."""
    async with running(redis_url, AGENTS, ANSWERS) as runtime:
        _, end = await runtime.turn("worker", "go")
    assert (end.status, done) == ("completed", list(CALLS))


async def test_the_end_of_a_turn_is_told_when_a_replica_has_it(redis_url: str, redis_server: RedisServer) -> None:
    """Committed on the master, asked for again and again, and told once a replica is there."""
    waits = {"wait_replicas": 1, "wait_timeout_ms": 50, "wait_turns": "on"}
    async with running(redis_url, AGENTS, ANSWERS, **waits) as runtime:
        want = runtime.begin("echo", "hi")
        working = asyncio.create_task(runtime.admission.run(await runtime.enter(want)))
        with redis_server.client() as outside:
            outside.config_resetstat()
            waited = lambda: outside.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"] >= 3  # noqa: E731
            await until(waited)
        assert (await status(runtime, want), working.done()) == ("completed", False)
        with RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)):
            end = await working
    assert end is not None
    assert end.status == "completed"
