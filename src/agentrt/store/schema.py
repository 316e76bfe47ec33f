"""The version of the schema that the pods of a deployment write: who knows which, and moving on to the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.records import SCHEMA_VERSION, oldest_known
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import pods_key, schema_key

__all__ = ["SEEN_MS", "Schema", "SchemaState", "Writes"]

SEEN_MS = 10_000
"""A pod that has said nothing for so long is gone."""
_SLOT = b"pods"
_BEFORE_THERE_WERE_TWO = 1


@dataclass(slots=True)
class Writes:
    """The version that this pod gives to new sessions, and brings idle ones to. Until it has learned what the
    deployment writes, the older of the two that it knows, which is read by whoever may be beside it."""

    version: int = max(oldest_known(), 1)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """`writes`: None before the first pod; `pods`: the newest version that each live pod knows."""

    writes: int | None
    pods: Mapping[str, int]


class Schema:
    """The deployment's version, in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def seen(self, pod: str, told: Mapping[str, Any] | None) -> int:
        """A pod lives and says this of itself; None: it leaves. Returns the version that is written."""
        raw = orjson.dumps({**told, "schema": SCHEMA_VERSION}) if told is not None else b""
        unit = Unit(_SLOT).call(
            self._redis.scripts["pod_seen"],
            (pods_key(), schema_key()),
            pod=pod,
            told=raw,
            known=SCHEMA_VERSION,
            keep_ms=SEEN_MS,
        )
        return int((await self._redis.execute(unit))[0][1])

    async def state(self) -> SchemaState:
        """What is written, and what the live pods know."""
        unit = Unit(_SLOT).command("HGET", schema_key(), "writes").command("HGETALL", pods_key()).command("TIME")
        writes, raw, (seconds, micros) = await self._redis.execute(unit)
        now = int(seconds) * 1000 + int(micros) // 1000
        pods = {}
        for i in range(0, len(raw), 2):
            at, _, told = raw[i + 1].partition(b"\n")
            if now - int(at) <= SEEN_MS:
                pods[raw[i].decode()] = int(orjson.loads(told).get("schema", _BEFORE_THERE_WERE_TWO))
        return SchemaState(int(writes) if writes else None, pods)

    async def bump(self, to: int, *, force: bool = False) -> list[str]:
        """Have version `to` written. Returns the live pods that do not know it: then nothing is changed, unless
        `force`."""
        unit = Unit(_SLOT).call(
            self._redis.scripts["schema_bump"],
            (pods_key(), schema_key()),
            to=to,
            force=int(force),
            keep_ms=SEEN_MS,
        )
        status, *behind = (await self._redis.execute(unit))[0]
        return [pod.decode() for pod in behind] if status == b"behind" else []
