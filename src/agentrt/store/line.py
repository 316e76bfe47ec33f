"""Named locks on one Redis: first in, first out. The line is in the lock's key; scripts hand the lock along it."""

from __future__ import annotations

import asyncio
import logging

from agentrt.errors import LockTimeout, StoreError
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import LockKeys
from agentrt.store.notices import Notices, heard
from agentrt.store.tenure import LockConfig, Tenure
from agentrt.tasks import Errands

__all__ = ["Line"]

log = logging.getLogger("agentrt.locks")

_POLL_MS = 1_000
"""The poll behind every wait, and the waiter's sign of life: line.lua takes it for dead after two that did not come."""
_STAGGER_MS = 5
"""When the holder's time runs out the first in line asks first, so that the others find it settled."""


class Line:
    """Takes locks in turn. A notice says whose turn it is; asking again finds out without it."""

    def __init__(self, redis: Redis, notices: Notices, config: LockConfig, errands: Errands) -> None:
        self._redis = redis
        self._notices = notices
        self._config = config
        self._errands = errands
        pod, lock_ms, ttl = config.pod, config.lock_ms, config.ttl_s
        acquire = redis.scripts["lock_acquire"]
        self._take = acquire.prepare(pod=pod, lock_ms=lock_ms, line_max=0, ttl=ttl)
        self._take_or_wait = acquire.prepare(pod=pod, lock_ms=lock_ms, line_max=config.line_max, ttl=ttl)
        self._renew = redis.scripts["lock_renew"].prepare(lock_ms=lock_ms, ttl=ttl)
        self._release = redis.scripts["lock_release"].prepare(ttl=ttl)

    async def take(self, lock: LockKeys, token: str, wait_s: float) -> Tenure:
        """See `Taker`. Who may not wait gets no place in the line."""
        config = self._config
        asking = self._take_or_wait if wait_s > 0 else self._take
        unit = Unit(lock.tag).packed(asking.pack(lock.hash, token))
        asked_ms = config.clock_ms()
        try:
            reply = (await self._redis.execute(unit))[0]
            if reply[0] == b"waiting":
                asked_ms, reply = await self._wait(unit, token, asked_ms + wait_s * 1000)
        except BaseException:
            # Perhaps in the line, perhaps the holder by now. Nobody waits for this; without it, the time runs out.
            self._errands.start(self._give_back(self._leaving(lock, token)))
            raise
        if reply[0] != b"held":
            raise LockTimeout("too many wait for this lock" if wait_s > 0 else "the lock is taken")
        return Tenure(token, int(reply[1]), config.deadline_ms(asked_ms))

    async def _wait(self, unit: Unit, token: str, give_up_ms: float) -> tuple[float, list[bytes]]:
        """Ask until it is our turn: the reply, and when it was asked for. Raises `LockTimeout`."""
        clock_ms = self._config.clock_ms
        woken = self._notices.subscribe(token)
        try:
            while True:
                asked_ms = clock_ms()
                reply = (await self._redis.execute(unit))[0]
                if reply[0] != b"waiting":
                    return asked_ms, reply
                left_ms = give_up_ms - clock_ms()
                if left_ms <= 0:
                    raise LockTimeout("the lock was not free in time")
                place, holder_ms = int(reply[1]), int(reply[2])
                pause_ms = min(left_ms, _POLL_MS, holder_ms + 1 + (place - 1) * _STAGGER_MS)
                await heard(woken, pause_ms / 1000)
        finally:
            self._notices.unsubscribe(token, woken)

    async def renew(self, lock: LockKeys, token: str) -> float | None:
        """See `Taker`."""
        config = self._config
        unit = Unit(lock.tag).packed(self._renew.pack(lock.hash, token))
        asked_ms = config.clock_ms()
        reply = (await self._redis.execute(unit))[0]
        return config.deadline_ms(asked_ms) if reply[0] == b"held" else None

    async def release(self, lock: LockKeys, token: str) -> None:
        """See `Taker`."""
        unit = self._leaving(lock, token)
        try:
            await self._redis.execute(unit)  # leaves with this tick's write, whatever becomes of the caller
        except asyncio.CancelledError:
            self._errands.start(self._give_back(unit))  # should the connection break now, nobody else sends it again
            raise
        except StoreError as error:
            log.warning("a lock was not given back, it runs out: %s", error)

    def _leaving(self, lock: LockKeys, token: str) -> Unit:
        return Unit(lock.tag).packed(self._release.pack(lock.hash, token))

    async def _give_back(self, unit: Unit) -> None:
        try:
            await self._redis.execute(unit)
        except StoreError as error:
            log.warning("a lock was not given back, it runs out: %s", error)
