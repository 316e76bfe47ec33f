"""One run: the world, its faults and its clients; then the checks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import redis
from tests.harness.runs import status

from loadtest.chaos.census import census
from loadtest.chaos.history import lost, violations
from loadtest.chaos.invariants import Inspection, at_rest, held
from loadtest.chaos.load import Crowd, Load
from loadtest.chaos.pod import NEW, OLD
from loadtest.chaos.schedule import KINDS, Fault, schedule
from loadtest.chaos.world import World

__all__ = ["Plan", "soak"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is. The same seed is the same faults at the same times, and clients that say the same."""

    seed: int = 1
    seconds: float = 60
    topology: str = "single"
    waiting: bool = True
    """What is acknowledged waits for a replica, where there are any."""
    kinds: tuple[str, ...] = ()
    """Of the topology's faults these only; none: all."""
    pace: float = 1.0
    """The pauses between faults are so many times 1.15 s on average."""
    pods: int = 3
    talkers: int = 6
    workers: int = 4
    pause_s: float = 0.0
    """How long a client thinks between its messages, on average."""
    rest_s: float = 60
    """How long after the last fault everything may take to come to rest."""
    logs: str = ""
    """Folder for what the pods logged, where something was found; empty: it is not kept."""
    guard: str | None = None
    """Pods without it, see tests/negative/guards.py: then something must be found."""

    @property
    def mixed(self) -> bool:
        """Whether there are pods of two releases: at first all are of the older one, and the schema is raised at
        half of the time."""
        return "release" in self._likely

    @property
    def _likely(self) -> Mapping[str, int]:
        likely = KINDS[self.topology]
        return {kind: weight for kind, weight in likely.items() if kind in self.kinds} if self.kinds else likely

    def schedule(self) -> list[Fault]:
        """Its faults."""
        likely = self._likely
        return schedule(self.seed, self.seconds, self.pods, likely, self.pace)


async def soak(plan: Plan) -> dict[str, Any]:
    """The report: what was asked for, what happened, how often, and `violations`, which should be empty."""
    faults = plan.schedule()
    over = asyncio.Event()
    async with World(plan.pods, plan.topology, plan.waiting, OLD if plan.mixed else NEW, plan.guard) as world:
        begun = time.monotonic()
        losing = world.redis.losing
        hasty = losing and not plan.waiting
        crowd = Crowd(plan.seed, plan.talkers, plan.workers, plan.pause_s)
        load = Load(world.urls, crowd, losing=losing, hasty=hasty)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(over))
            if plan.mixed:
                group.create_task(_raise_schema(world, plan.seconds / 2))
            await _inject(world, faults, begun, plan.seconds)
            over.set()
        world.look()
        await world.wait_ready()
        with world.redis.client() as client:
            wrong = await _rest(world, client, load, plan.rest_s)
            inspection = Inspection(client, world.sink, world.redis.unsettled, hasty=hasty)
            await asyncio.to_thread(inspection.all, load.accepted)
            kept = await asyncio.to_thread(census, client)
        wrong += await _histories(load, world.redis.spans if hasty else [], hasty=hasty)
        outcomes = Counter(one.outcome for conversation in load.conversations for one in conversation.operations)
        if outcomes["unknown"] > outcomes["ok"]:
            wrong.append("of most messages nobody was told what became of them")
        wrong += [*world.wrong, *load.wrong, *inspection.wrong]
        if plan.logs and wrong:
            world.keep_logs(Path(plan.logs))
        return {
            "plan": asdict(plan),
            "seconds": round(time.monotonic() - begun, 1),
            "faults": dict(sorted(Counter(fault.kind for fault in faults).items())),
            **dict(sorted(world.counts.items())),
            "operations": dict(sorted(outcomes.items())),
            "conversations": len(load.conversations),
            "background runs accepted": len(load.accepted),
            **dict(sorted(load.counts.items())),
            **dict(sorted(inspection.counts.items())),
            "kept": kept,
            "violations": wrong,
        }


async def _raise_schema(world: World, after_s: float) -> None:
    """Under the load, and whatever else happens: until then pods of two releases come and go."""
    await asyncio.sleep(after_s)
    await world.raise_schema()


async def _inject(world: World, faults: list[Fault], begun: float, seconds: float) -> None:
    """Each at its time, also while others last, until the time is over and all have been made good."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(begun + fault.at_s - time.monotonic())
            group.create_task(world.inject(fault))
        await asyncio.sleep(begun + seconds - time.monotonic())


async def _rest(world: World, client: redis.Redis, load: Load, bound_s: float) -> list[str]:
    """Wait until nothing is at work. What a fail-over made the queue forget is found by whoever reads it; what failed
    for its model's sake is sent again."""
    wrong: list[str] = []
    resting = partial(at_rest, client)
    if not await world.until(resting, bound_s / 2 if world.redis.losing else bound_s) and world.redis.losing:
        for response in await asyncio.to_thread(held, client):
            if not world.redis.unsettled:
                wrong.append(f"{response} is found by a reader alone, and no fail-over made anybody forget it")
            load.counts["runs found by a reader alone"] += 1
            await load.read(response)
    for response in load.accepted:
        if await asyncio.to_thread(_failed, client, response):
            await load.take_up(response)
    if not await world.until(resting, bound_s):
        wrong.append(f"not at rest after {bound_s} s")
    await load.last_words()
    if not await world.until(resting, bound_s):
        wrong.append(f"not at rest {bound_s} s after the last words")
    return wrong


def _failed(client: redis.Redis, response: str) -> bool:
    return status(client, response) == "failed"


async def _histories(load: Load, spans: list[tuple[float, float]], *, hasty: bool) -> list[str]:
    """What is wrong with the conversations; what was acknowledged within `spans` may be gone, and is counted."""
    wrong: list[str] = []
    for conversation in load.conversations:
        if conversation.forgotten:
            told = [one.text for one in conversation.operations if one.outcome == "ok"]
            wrong += [f"{conversation.id} was gone, and {text!r} is acknowledged in it" for text in told if not hasty]
            continue
        try:
            stored = await load.stored(conversation)
        except httpx2.HTTPError as error:
            wrong.append(f"{conversation.id} cannot be read: {error!r}")
            continue
        gone = lost(conversation.operations, stored, spans)
        load.counts["turns lost with a master"] += len(gone)
        operations = [one for one in conversation.operations if one not in gone]
        wrong += [f"{conversation.id}: {one}" for one in violations(operations, stored)]
    return wrong
