"""What a memory costs a turn: the CPU of the same turn without one, with one, and of what it adds: a read, a search.

One pod's runtime in this process, from `begin` to `commit` on a real Redis, 16 at once, with a model that answers at
once. Jobs are left to other pods: what is measured is what a client waits for. The contenders take turns, slice by
slice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any

from tests.runtime.conftest import Runtime, running

from agentrt.agent import Agent, Memory
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import Head
from loadtest.searches import fill, sentence

__all__ = ["FACTS", "TURNS", "measure", "ratios"]

TURNS = 500
"""Turns that each user has said before; and facts:"""
FACTS = 20
_AT_ONCE = 16

Call = Callable[[int], Awaitable[Any]]


async def _contenders(runtime: Runtime, chance: random.Random) -> dict[str, Call]:
    """By name: what one of `_AT_ONCE` workers does again and again. The sessions are there, with a full window."""
    sessions: dict[tuple[str, int], SessionKeys] = {}

    def turn(agent: str, *, known: bool) -> Call:
        async def call(worker: int) -> None:
            session = sessions.get((agent, worker))
            place = {"create": True} if session is None else {"session": session, "create": False}
            user = f"u{worker}" if known else ""
            want, end = await runtime.turn(agent, sentence(chance), user=user, **place)
            assert end.status == "completed"
            sessions[agent, worker] = want.session

        return call

    users = runtime.services.users

    async def read(worker: int) -> None:
        await users.head(UserKeys("dev", f"u{worker}"), TURNS)

    recollections, heads = runtime.services.recollections, dict[int, Head]()

    async def search(worker: int) -> None:
        await recollections.search(heads[worker], sentence(chance), Memory().recall_hits)

    for worker in range(_AT_ONCE):
        user = UserKeys("dev", f"u{worker}")
        await fill(users, user, TURNS, chance, embedded=False)
        for number in range(FACTS):
            await runtime.surface.people.set(user, attribute=f"likes_{number}", value=sentence(chance)[:40])
        heads[worker] = await users.head(user)
    return {"without": turn("plain", known=False), "with": turn("memory", known=True), "read": read, "search": search}


async def _slice(call: Call, count: int) -> tuple[float, float]:
    """CPU and p50 of one call in us."""
    taken: list[float] = []

    async def work(worker: int) -> None:
        for _ in range(count // _AT_ONCE):
            begun = time.perf_counter()
            await call(worker)
            taken.append(time.perf_counter() - begun)

    cpu = time.process_time()
    await asyncio.gather(*(work(worker) for worker in range(_AT_ONCE)))
    return (time.process_time() - cpu) * 1e6 / len(taken), median(taken) * 1e6


async def measure(redis_url: str, rounds: int, count: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU, p50) of a call in us, by contender and round; the first rounds are not counted: they fill the windows."""
    agents = [Agent("plain", model="scripted:echo", memory=None), Agent("memory", model="scripted:echo")]
    async with running(redis_url, agents, memory_jobs=0) as runtime:
        calls = await _contenders(runtime, random.Random(2))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(2):
            for call in calls.values():
                await _slice(call, 30 * _AT_ONCE)
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(await _slice(call, count))
        return found


def ratios(found: Mapping[str, list[tuple[float, float]]]) -> list[float]:
    """CPU of a turn with a memory over one without and its read, by round."""
    rounds = zip(found["with"], found["without"], found["read"], strict=True)
    return [ours[0] / (bare[0] + read[0]) for ours, bare, read in rounds]
