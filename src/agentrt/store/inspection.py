"""What operators look at: the live pods, the queue by class, one session and its runs. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.records import check_version
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys, SessionKeys, pods_key
from agentrt.store.queue import Urgency
from agentrt.store.schema import SEEN_MS

__all__ = ["Inspection", "LivePod", "QueueState"]

_CLASS = 2**48
"""See queue.lua."""
_SLOT = b"pods"


@dataclass(frozen=True, slots=True)
class LivePod:
    """A pod, what it told of itself, and how long ago."""

    name: str
    told: dict[str, Any]
    seen_ms_ago: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """Runs that wait, by class; the age of the oldest in seconds; runs under a lease; dead letters."""

    classes: dict[str, int]
    oldest_s: float
    leased: int
    dead: int

    @property
    def depth(self) -> int:
        """All that wait."""
        return sum(self.classes.values())


class Inspection:
    """Looking at the deployment's state."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queue = QueueKeys()

    async def pods(self) -> list[LivePod]:
        """The pods that gave a sign within the last 10 s, by name."""
        unit = Unit(_SLOT).command("HGETALL", pods_key()).command("TIME")
        raw, (seconds, micros) = await self._redis.execute(unit)
        now = int(seconds) * 1000 + int(micros) // 1000
        found = []
        for i in range(0, len(raw), 2):
            at, _, told = raw[i + 1].partition(b"\n")
            if now - int(at) <= SEEN_MS:
                found.append(LivePod(raw[i].decode(), orjson.loads(told), max(0, now - int(at))))
        return sorted(found, key=lambda pod: pod.name)

    async def queue(self) -> QueueState:
        """The queue as it stands."""
        names = self._queue
        unit = Unit(names.slot)
        for urgency in Urgency:
            unit.command("ZCOUNT", names.ready, urgency * _CLASS, f"({(urgency + 1) * _CLASS}")
        unit.command("ZRANGE", names.since, 0, 0, "WITHSCORES").command("ZCARD", names.leases)
        unit.command("HLEN", names.dead).command("TIME")
        *counts, oldest, leased, dead, (seconds, micros) = await self._redis.execute(unit)
        age_s = int(seconds) + int(micros) / 1e6 - float(oldest[1]) / 1000 if oldest else 0.0
        classes = {urgency.name.lower(): int(count) for urgency, count in zip(Urgency, counts, strict=True)}
        return QueueState(classes, max(0.0, age_s), int(leased), int(dead))

    async def session(self, keys: SessionKeys) -> dict[str, str] | None:
        """The fields of a session's header; None where there is none, or it is another tenant's.

        Raises `SchemaNewer`.
        """
        fields = _text((await self._redis.execute(Unit(keys.tag).command("HGETALL", keys.hash)))[0])
        if fields.get("tenant") != keys.tenant:
            return None
        check_version(fields["v"])
        return fields

    async def runs(self, keys: SessionKeys, limit: int) -> list[dict[str, str | None]]:
        """The newest runs of a session, newest first: id, status, attempt, pod, times."""
        ids = (await self._redis.execute(Unit(keys.tag).command("LRANGE", keys.runs, -limit, -1)))[0]
        if not ids:
            return []
        unit = Unit(keys.tag)
        for run in ids:
            unit.command("HMGET", keys.run(run.decode()).hash, *_RUN)
        rows = await self._redis.execute(unit)
        found = []
        for run, row in reversed(list(zip(ids, rows, strict=True))):
            if row[0] is not None:
                values = (None if value is None else value.decode() for value in row)
                found.append({"id": run.decode(), **dict(zip(_RUN, values, strict=True))})
        return found

    async def journal(self, keys: SessionKeys, run: str) -> list[dict[str, Any]]:
        """The effects of a run in the order of their calls: as planned, whether intended, and the outcome."""
        raw = (await self._redis.execute(Unit(keys.tag).command("HGETALL", keys.run(run).effects)))[0]
        fields = _text(raw)
        effects = []
        for key, value in fields.items():
            if key[-1] not in "@!~=":
                outcome = fields.get(key + "!")
                shown = {"intended": key + "@" in fields, "outcome": orjson.loads(outcome) if outcome else None}
                effects.append({**orjson.loads(value), **shown})
        return sorted(effects, key=lambda effect: (effect["step"], effect["index"]))


_RUN = ("status", "attempt", "pod", "created", "ended", "cancel")


def _text(raw: list[bytes]) -> dict[str, str]:
    return {raw[i].decode(): raw[i + 1].decode() for i in range(0, len(raw), 2)}
