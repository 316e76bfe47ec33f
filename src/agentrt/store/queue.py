"""The queue: runs that wait for a pod, and those that were given up. Scripts of the queue's slot.

An entry is a pointer to a run, under the token that a claim will displace: entered before the run depends on it, and
dropped after a look at the run. So a crash between leaves an entry too much, never a run without one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys, SessionKeys
from agentrt.store.ownership import StoreConfig

__all__ = ["DeadLetter", "Depth", "Queue", "Urgency", "run_name"]


class Urgency(enum.IntEnum):
    """The class of an entry; the lower ones are taken first."""

    RECOVERED = 0
    """Begun before: its pod died, or handed it over."""
    INTERACTIVE = 1
    BACKGROUND = 2


@dataclass(frozen=True, slots=True)
class Depth:
    """What the queue holds now: entries, the age of the oldest in seconds, runs that were given up."""

    waiting: int
    oldest_s: float
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A run that was given up. `run` is tenant/session/run; `at` in ms since the epoch."""

    run: str
    reason: str
    agent: str
    attempts: int
    pod: str
    at: int


class Queue:
    """Entering, sweeping, taking; and the dead letters."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._config = config
        keys = self._names = QueueKeys()
        self._keys = (keys.leases, keys.ready, keys.since, keys.tags)

    async def enqueue(self, member: bytes, urgency: Urgency) -> None:
        """Turn a lease into a place in the queue; the run it stands for has let go of its pod, or is about to."""
        unit = Unit(self._names.slot).call(
            self._redis.scripts["enqueue"],
            self._keys,
            member=member,
            urgency=int(urgency),
            channel=self._names.channel,
        )
        await self._redis.execute(unit)

    async def sweep(self, limit: int) -> tuple[int, int]:
        """Move leases that have run out, at most `limit`. Returns (how many were moved, how many wait now)."""
        unit = Unit(self._names.slot).call(
            self._redis.scripts["sweep"], self._keys, limit=limit, channel=self._names.channel
        )
        moved, waiting = (await self._redis.execute(unit))[0]
        return int(moved), int(waiting)

    async def take(self, count: int, op: str) -> Sequence[bytes]:
        """The next entries, at most `count`, each under a lease from now on; `op` names this take."""
        unit = Unit(self._names.slot).call(
            self._redis.scripts["take"],
            (*self._keys, self._names.takes),
            op=op,
            pod=self._config.pod,
            count=count,
            lease_ms=self._config.lease_ms,
        )
        taken: list[bytes] = (await self._redis.execute(unit))[0]
        return taken

    async def depth(self) -> Depth:
        """What waits, since when, and what was given up."""
        names = self._names
        unit = Unit(names.slot).command("ZCARD", names.ready).command("ZRANGE", names.since, 0, 0, "WITHSCORES")
        unit.command("HLEN", names.dead).command("TIME")
        waiting, oldest, dead, (seconds, micros) = await self._redis.execute(unit)
        age_s = int(seconds) + int(micros) / 1e6 - float(oldest[1]) / 1000 if oldest else 0.0
        return Depth(int(waiting), max(0.0, age_s), int(dead))

    # --- dead letters ---------------------------------------------------------------------------------------------

    async def bury(self, letter: DeadLetter) -> None:
        """Keep a run that was given up; the first reason stays."""
        fields = asdict(letter)
        raw = orjson.dumps({name: value for name, value in fields.items() if name != "run"})
        script, keys = self._redis.scripts["bury"], (self._names.dead,)
        await self._redis.execute(Unit(self._names.slot).call(script, keys, name=letter.run, letter=raw))

    async def dead(self) -> list[DeadLetter]:
        """All dead letters, the oldest first."""
        raw = (await self._redis.execute(Unit(self._names.slot).command("HGETALL", self._names.dead)))[0]
        letters = [DeadLetter(raw[i].decode(), **orjson.loads(raw[i + 1])) for i in range(0, len(raw), 2)]
        return sorted(letters, key=lambda letter: letter.at)

    async def unbury(self, run: str) -> bool:
        """Forget a dead letter; whether there was one."""
        reply = await self._redis.execute(Unit(self._names.slot).command("HDEL", self._names.dead, run))
        return bool(reply[0])


def run_name(session: SessionKeys, run: str) -> str:
    """A run as dead letters name it."""
    return f"{session.tenant}/{session.id}/{run}"
