"""Effects in doubt: where they are, what is known of them, and saying what became of them.

The index in the queue's slot is a pointer, entered before the outcome is recorded and dropped after it is resolved; the
journal in the session's slot is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.errors import SchemaNewer
from agentrt.records import SCHEMA_VERSION, check_version
from agentrt.store.connection import Redis, Unit
from agentrt.store.journal import Outcome, Planned
from agentrt.store.keys import QueueKeys, SessionKeys, is_id, is_name
from agentrt.store.ownership import StoreConfig, unexpected

__all__ = ["Doubted", "Doubts", "Place", "Resolution"]

_KEPT_MS = 60_000
"""A pointer whose record is not there yet is kept for so long: its run may be about to write it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an effect's record is. Written as `tenant/session/run/key`."""

    tenant: str
    session: str
    run: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """A place as written; None for anything else."""
        parts = text.split("/")
        if len(parts) != 4 or not is_name(parts[0]) or not (is_id(parts[1]) and is_id(parts[2])):
            return None
        if len(parts[3]) != 64 or not parts[3].isalnum():
            return None
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.session}/{self.run}/{self.key}"

    @property
    def keys(self) -> SessionKeys:
        return SessionKeys(self.tenant, self.session)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of an effect: it `happened`, with `output` (JSON value), or not. `by` says who knows."""

    happened: bool
    output: Any
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Doubted:
    """An effect that is or was in doubt."""

    place: Place
    planned: Planned
    outcome: Outcome
    late_result: Outcome | None
    resolution: Resolution | None
    request: bytes
    """What the client of its run had asked for."""
    blocking: bool
    """Whether its run ended because of it, and the session waits."""


class Doubts:
    """The index, and the records it points to."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._ttl_s = max(config.session_ttl_s, config.run_ttl_s, 86_400)
        queue = QueueKeys()
        self._slot = b"q:%d" % queue.number
        self._index = queue.doubts

    async def enter(self, places: Sequence[Place]) -> None:
        """Say where effects are about to be recorded as in doubt."""
        # Every record that an entry can point to lives shorter than this from now on.
        script, ttl = self._redis.scripts["doubt_enter"], 2 * self._ttl_s
        unit = Unit(self._slot).call(script, (self._index,), [str(place) for place in places], ttl=ttl)
        await self._redis.execute(unit)

    async def listed(self, limit: int = 100) -> list[Doubted]:
        """The effects in doubt, the oldest first. Drops pointers to what is resolved or gone."""
        unit = Unit(self._slot).command("ZRANGE", self._index, 0, limit - 1, "WITHSCORES").command("TIME")
        entries, (seconds, _) = await self._redis.execute(unit)
        found = []
        for number in range(0, len(entries), 2):
            place = Place.parse(entries[number].decode())
            try:
                doubted = await self.read(place) if place is not None else None
            except SchemaNewer:
                continue  # a pod that knows it lists it
            if doubted is not None and doubted.resolution is None:
                found.append(doubted)
            elif doubted is not None or int(seconds) * 1000 - int(entries[number + 1]) > _KEPT_MS:
                self._redis.post(Unit(self._slot).command("ZREM", self._index, entries[number]))
        return found

    async def count(self) -> tuple[int, float]:
        """(how many pointers there are, age of the oldest in seconds; 0 for none)."""
        unit = Unit(self._slot).command("ZCARD", self._index).command("ZRANGE", self._index, 0, 0, "WITHSCORES")
        number, oldest, (seconds, _) = await self._redis.execute(unit.command("TIME"))
        return int(number), max(0.0, int(seconds) - int(oldest[1]) / 1000) if oldest else 0.0

    async def read(self, place: Place) -> Doubted | None:
        """An effect that is or was in doubt; None where there is no such record."""
        keys = place.keys
        run, key = keys.run(place.run), place.key
        unit = Unit(keys.tag).command("HMGET", run.effects, key, key + "!", key + "~", key + "=")
        unit.command("HMGET", run.hash, "request", "result").command("HGET", keys.hash, "v")
        (planned, outcome, late, resolution), (request, result), version = await self._redis.execute(unit)
        if not planned or not outcome or not version:
            return None
        check_version(version)
        told = Outcome(**orjson.loads(outcome))
        if told.state != "in_doubt":
            return None
        return Doubted(
            place,
            Planned(**orjson.loads(planned)),
            told,
            Outcome(**orjson.loads(late)) if late else None,
            Resolution(**orjson.loads(resolution)) if resolution else None,
            request or b"{}",
            (orjson.loads(result or b"{}").get("metadata") or {}).get("agentrt_incomplete") == "effect_in_doubt",
        )

    async def resolve(self, place: Place, resolution: Resolution, note: tuple[bytes, bytes]) -> Resolution | None:
        """Keep what became of an effect; the first resolution stands and is returned. None: it is not in doubt.

        `note`: the item that tells the model, as stored, around its number.
        """
        keys = place.keys
        unit = Unit(keys.tag).call(
            self._redis.scripts["resolve"],
            (keys.hash, keys.run(place.run).effects),
            known=SCHEMA_VERSION,
            key=place.key,
            resolution=orjson.dumps(resolution),
            note_before=note[0],
            note_after=note[1],
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"resolve {place}")
        if reply[0] != b"ok":
            return None
        self._redis.post(Unit(self._slot).command("ZREM", self._index, str(place)))
        return Resolution(**orjson.loads(reply[1]))
