"""One run: the world, its faults and its clients; then the checks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx2

from loadtest.chaos.history import violations
from loadtest.chaos.invariants import Inspection, at_rest
from loadtest.chaos.load import Load
from loadtest.chaos.schedule import Fault, schedule
from loadtest.chaos.world import World

__all__ = ["Plan", "soak"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is. The same seed is the same faults at the same times, and clients that say the same."""

    seed: int = 1
    seconds: float = 60
    pods: int = 3
    talkers: int = 6
    workers: int = 4
    rest_s: float = 60
    """How long after the last fault everything may take to come to rest."""
    guard: str | None = None
    """Pods without it, see tests/negative/guards.py: then something must be found."""


async def soak(plan: Plan) -> dict[str, Any]:
    """The report: what was asked for, what happened, how often, and `violations`, which should be empty."""
    faults = schedule(plan.seed, plan.seconds, plan.pods)
    over = asyncio.Event()
    async with World(plan.pods, plan.guard) as world:
        begun = time.monotonic()
        load = Load(world.pods, plan.seed, plan.talkers, plan.workers)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(over))
            await _inject(world, faults, begun, plan.seconds)
            over.set()
        wrong = [f"{pod} ended of itself" for pod in world.ended()]
        await world.wait_ready()
        with world.redis.client() as client:
            if not await world.until(partial(at_rest, client), plan.rest_s):
                wrong.append(f"not at rest after {plan.rest_s} s")
            inspection = Inspection(client, world.sink)
            await asyncio.to_thread(inspection.all, load.accepted)
        wrong += [*load.wrong, *inspection.wrong]
        for conversation in load.conversations:
            try:
                stored = await load.stored(conversation)
            except httpx2.HTTPError as error:
                wrong.append(f"{conversation.id} cannot be read: {error!r}")
                continue
            wrong += [f"{conversation.id}: {one}" for one in violations(conversation.operations, stored)]
        outcomes = Counter(one.outcome for conversation in load.conversations for one in conversation.operations)
        return {
            "plan": asdict(plan),
            "seconds": round(time.monotonic() - begun, 1),
            "faults": dict(sorted(Counter(fault.kind for fault in faults).items())),
            "operations": dict(sorted(outcomes.items())),
            "conversations": len(load.conversations),
            "background runs accepted": len(load.accepted),
            **dict(sorted(load.counts.items())),
            **dict(sorted(inspection.counts.items())),
            "violations": wrong,
        }


async def _inject(world: World, faults: list[Fault], begun: float, seconds: float) -> None:
    """Each at its time, also while others last, until the time is over and all have been made good."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(begun + fault.at_s - time.monotonic())
            group.create_task(world.inject(fault))
        await asyncio.sleep(begun + seconds - time.monotonic())
