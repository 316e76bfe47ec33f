"""Who may ask, and how much: API keys and quotas as operators set them, and what of a quota is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.store.connection import Redis, Sent, Unit
from agentrt.store.keys import AccessKeys, QuotaKeys

__all__ = ["SCOPES", "Access", "Granted", "KeyRecord", "Left", "Quota", "Quotas", "Verdict"]

_AGAIN_MS = 1000
"""Runs in flight end when they end: when it is worth to look again."""
SCOPES = ("run", "read", "operate")
"""What a key may be for: change things and run agents; look; the native routes, for every tenant."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as it is kept. `digest`: the HMAC-SHA256 of the whole key, in hex; `created` in s since the epoch."""

    tenant: str
    digest: str
    scopes: Sequence[str]
    created: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may use. 0: no limit."""

    runs: int = 0
    turns_per_minute: int = 0
    tokens_per_day: int = 0

    @property
    def unlimited(self) -> bool:
        """Whether nothing needs to be counted."""
        return not (self.runs or self.turns_per_minute or self.tokens_per_day)


@dataclass(frozen=True, slots=True)
class Granted:
    """Everything that operators have set, by key id and by tenant."""

    rev: int
    keys: dict[str, KeyRecord]
    quotas: dict[str, Quota]


class Access:
    """The keys and quotas in Redis; few, and read whole."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = AccessKeys()

    async def rev(self) -> int:
        """Changes whenever something was set."""
        reply = await self._redis.execute(Unit(self._keys.slot).command("GET", self._keys.rev))
        return int(reply[0] or 0)

    async def read(self) -> Granted:
        """All of it."""
        keys = self._keys
        unit = Unit(keys.slot).command("GET", keys.rev)  # first: what is set behind it is read once more
        unit.command("HGETALL", keys.keys).command("HGETALL", keys.quotas)
        rev, records, quotas = await self._redis.execute(unit)
        return Granted(
            int(rev or 0),
            {name: KeyRecord(**value) for name, value in _pairs(records)},
            {name: Quota(**value) for name, value in _pairs(quotas)},
        )

    async def set_key(self, identifier: str, record: KeyRecord | None) -> None:
        """Keep a key, or forget it."""
        await self._set(self._keys.keys, identifier, orjson.dumps(record) if record else b"")

    async def set_quota(self, tenant: str, quota: Quota | None) -> None:
        """Set a tenant's quota, or forget it: then it has the default."""
        await self._set(self._keys.quotas, tenant, orjson.dumps(quota) if quota else b"")

    async def _set(self, entries: bytes, field: str, value: bytes) -> None:
        script = self._redis.scripts["access_set"]
        unit = Unit(self._keys.slot).call(script, (entries, self._keys.rev), field=field, value=value)
        await self._redis.execute(unit)


def _pairs(raw: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    return [(raw[i].decode(), orjson.loads(raw[i + 1])) for i in range(0, len(raw), 2)]


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit. `kind`: `runs` (in flight), `turns` (of this minute), `tokens` (of this day)."""

    kind: str
    limit: int
    left: int
    reset_ms: int
    """When there is more: at the end of its window, or, for runs in flight, when it is worth to ask again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run may begin. `outcome`: `ok`, `known` (it counts already), or the limit that excludes it."""

    outcome: str
    limit: int = 0
    retry_ms: int = 0
    left: tuple[Left, ...] = ()
    """Of each limit, with this run counted."""


class Quotas:
    """What of the quotas is used: scripts of the tenants' slots."""

    _HOLD_MS = 600_000

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def entering(self, tenant: str, member: str, quota: Quota) -> Sent:
        """Count a run: sent now; `verdict` reads the reply."""
        keys = QuotaKeys(tenant)
        unit = Unit(keys.slot).call(
            self._redis.scripts["quota_enter"],
            (keys.used, keys.runs),
            member=member,
            runs_max=quota.runs,
            turns_max=quota.turns_per_minute,
            tokens_max=quota.tokens_per_day,
            hold_ms=self._HOLD_MS,
        )
        return self._redis.send(unit)

    @staticmethod
    async def verdict(sent: Sent, quota: Quota) -> Verdict:
        """What became of `entering`."""
        outcome, *numbers = (await sent)[0]
        if outcome not in {b"ok", b"known"}:
            return Verdict(outcome.decode(), int(numbers[0]), int(numbers[1]))
        runs, turns, tokens, minute_ms, day_ms = map(int, numbers)
        all_ = (
            ("runs", quota.runs, runs, _AGAIN_MS),
            ("turns", quota.turns_per_minute, turns, minute_ms),
            ("tokens", quota.tokens_per_day, tokens, day_ms),
        )
        left = (Left(kind, limit, max(0, limit - used), reset) for kind, limit, used, reset in all_ if limit)
        return Verdict(outcome.decode(), left=tuple(left))

    async def hold(self, tenant: str, members: Sequence[str], *, again: bool = False) -> None:
        """Let runs that are worked on go on counting, for ten minutes from now. `again`: also where they had ceased."""
        keys, script = QuotaKeys(tenant), self._redis.scripts["quota_hold"]
        unit = Unit(keys.slot).call(script, (keys.runs,), members, hold_ms=self._HOLD_MS, again=int(again))
        await self._redis.execute(unit)

    def leave(self, tenant: str, member: str, *, tokens: int = 0, undo: bool = False) -> None:
        """A run counts no longer; not waited for. If it gets lost the run counts for ten minutes more."""
        keys = QuotaKeys(tenant)
        unit = Unit(keys.slot).call(
            self._redis.scripts["quota_leave"], (keys.used, keys.runs), member=member, tokens=tokens, turns=int(undo)
        )
        self._redis.post(unit)
