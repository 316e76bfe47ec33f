"""What a turn costs each kind of slot in Redis, and what sessions weigh there. `python -m loadtest.shards`.

On a Cluster sessions are spread over all masters, but the leases and the queue are on one: what a turn costs that one
says how far a deployment grows. Capacity and simulation take their figures here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import uvloop
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

from agentrt.agent import Agent
from agentrt.store.keys import SessionKeys, lease_member, new_id
from agentrt.store.queue import Urgency
from loadtest.figures import Section, Table, command_line, number, say
from loadtest.measure import cpu_s
from loadtest.servers import LOAD_CORE, SERVER_CORE, AgentrtPod, on_core

CONCURRENCY = 16
_SESSIONS = 2_000
_ITEMS = 100


@dataclass(slots=True)
class Figures:
    """CPU of Redis in µs, an entry a round: of a whole turn, of its lease, of a way through the queue. Bytes in Redis:
    of a session without items, of an item of 300 bytes, of the run that a turn leaves beside its items."""

    turn: list[float] = field(default_factory=list)
    lease: list[float] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    session_bytes: float = 0.0
    item_bytes: float = 0.0
    run_bytes: float = 0.0


def _member() -> bytes:
    return lease_member(SessionKeys("dev", new_id()), new_id(), new_id())


async def _cpu_us(redis_pid: int, once: Callable[[], Awaitable[Any]], times: int) -> float:
    async def work() -> None:
        for _ in range(times // CONCURRENCY):
            await once()

    cpu = cpu_s(redis_pid)
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return (cpu_s(redis_pid) - cpu) * 1e6 / (times // CONCURRENCY * CONCURRENCY)


async def _costs(server: RedisServer, figures: Figures, rounds: int, times: int) -> None:
    """A first round is not counted."""
    async with running(server.url, [Agent("echo", model="scripted:echo")]) as runtime:
        leases, queue = runtime.services.leases, runtime.services.queue

        async def lease() -> None:
            member = _member()
            await leases.entering(member)
            leases.end(member)

        async def queued() -> None:
            await queue.enqueue(_member(), Urgency.BACKGROUND)
            for member in await queue.take(1, new_id()):
                leases.end(member)

        async def turn() -> None:
            await _turn(runtime)

        for n in range(rounds + 1):
            say(f"round {n}")
            costs = [await _cpu_us(server.pid, once, times) for once in (turn, lease, queued)]
            if n:
                for kept, cost in zip((figures.turn, figures.lease, figures.queue), costs, strict=True):
                    kept.append(cost)


async def _turn(runtime: Runtime) -> None:
    _, end = await runtime.turn("echo", "x" * 130)
    assert end.status == "completed"


def _weigh(server: RedisServer, pod: AgentrtPod, figures: Figures, sessions: int) -> None:
    """By the memory of Redis before and after."""
    with server.client() as client:

        def used() -> float:
            info: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
            return float(info["used_memory_dataset"])

        say("what sessions weigh")
        before = used()
        pod.prefill(sessions, 2)
        short = used()
        pod.prefill(sessions // 4, _ITEMS)
        long = used()
    figures.item_bytes = ((long - short) / (sessions // 4) - (short - before) / sessions) / (_ITEMS - 2)
    figures.session_bytes = (short - before) / sessions - 2 * figures.item_bytes


async def _weigh_runs(server: RedisServer, figures: Figures, runs: int) -> None:
    async with running(server.url, [Agent("echo", model="scripted:echo")]) as runtime:
        with server.client() as client:
            before = float(client.info("memory")["used_memory_dataset"])  # type: ignore[index]
            for _ in range(runs):
                await _turn(runtime)
            after = float(client.info("memory")["used_memory_dataset"])  # type: ignore[index]
    figures.run_bytes = (after - before) / runs - figures.session_bytes - 2 * figures.item_bytes


_TEXT = """CPU of Redis alone, 16 at once, one connection, through the pod's own store: a whole turn of the echo
agent in a new session; the lease that every turn has on the queue's shard, entered and ended; a run's way
through the queue, entered, taken and ended. Bytes are of Redis' data set, with its own overhead, for items of
about 300 bytes."""


def section(figures: Figures, redis_version: str) -> Section:
    """No goal of its own: what capacity reckons with."""
    turn, lease, queue = (median(each) for each in (figures.turn, figures.lease, figures.queue))
    rows = [
        ["a turn, all of it, µs of CPU", number(turn)],
        ["its lease, on the shard of the queue, µs of CPU", number(lease)],
        ["a way through the queue, on that shard, µs of CPU", number(queue)],
        ["a session, bytes", number(figures.session_bytes)],
        ["an item of 300 bytes, bytes", number(figures.item_bytes)],
        ["the run of a turn, kept for its retries, bytes", number(figures.run_bytes)],
    ]
    kept = {
        "turn_redis_us": turn,
        "lease_redis_us": lease,
        "queue_redis_us": queue,
        "session_bytes": figures.session_bytes,
        "item_bytes": figures.item_bytes,
        "run_bytes": figures.run_bytes,
    }
    tables = [Table(("in Redis", ""), rows)]
    return Section("shards", "What Redis does for a turn", _TEXT, (), tables, (), kept, (), redis_version)


def measured(quick: bool) -> Section:
    """Redis' part, measured."""
    rounds, times, sessions = (2, 800, 400) if quick else (7, 3_200, _SESSIONS)
    figures = Figures()
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            server = stack.enter_context(RedisServer())
        stack.enter_context(on_core(SERVER_CORE))
        with closing(AgentrtPod(server.url)) as pod:
            _weigh(server, pod, figures, sessions)
        uvloop.run(_weigh_runs(server, figures, sessions))
        uvloop.run(_costs(server, figures, rounds, times))
        return section(figures, server.version)


if __name__ == "__main__":
    command_line("shards", "What a turn costs Redis.", measured)
