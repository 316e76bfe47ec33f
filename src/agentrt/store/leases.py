"""The one timer: which owner is believed to live until when. Scripts of the queue's slot."""

from __future__ import annotations

from collections.abc import Sequence

from agentrt.store.connection import Redis, Sent, Unit
from agentrt.store.keys import QueueKeys
from agentrt.store.ownership import StoreConfig

__all__ = ["Leases"]

_RENEW_AT_ONCE = 500
"""Members per script, so that one renewal never holds up Redis."""


class Leases:
    """Entering, renewing, watching and ending leases. Members come from `keys.lease_member`."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._lease_ms = config.lease_ms
        self._queue = QueueKeys()
        self._slot = self._queue.slot
        self._keys = (self._queue.leases,)

    def entering(self, member: bytes) -> Sent:
        """Enter or move a lease: sent now, acknowledged when awaited."""
        return self._redis.send(
            Unit(self._slot).call(self._redis.scripts["lease"], self._keys, member=member, lease_ms=self._lease_ms)
        )

    def end(self, member: bytes) -> None:
        """Drop a lease; not waited for, and harmless if it gets lost: what it points to is looked at first."""
        self._redis.post(Unit(self._slot).command("ZREM", self._queue.leases, member))

    async def renew(self, members: Sequence[bytes]) -> list[bytes]:
        """Move the deadlines of this pod's leases; returns those that somebody took."""
        missing: list[bytes] = []
        for start in range(0, len(members), _RENEW_AT_ONCE):
            unit = Unit(self._slot).call(
                self._redis.scripts["renew"],
                (self._queue.leases, self._queue.ready, self._queue.since),
                members[start : start + _RENEW_AT_ONCE],
                lease_ms=self._lease_ms,
            )
            missing += (await self._redis.execute(unit))[0]
        return missing

    async def left_ms(self, member: bytes) -> int | None:
        """Time until an owner's lease runs out, negative if it has; enters one where there is none.

        None: the run waits in the queue for a pod.
        """
        keys = (self._queue.leases, self._queue.ready)
        unit = Unit(self._slot).call(self._redis.scripts["watch"], keys, member=member, lease_ms=self._lease_ms)
        reply = (await self._redis.execute(unit))[0]
        return None if reply[0] == b"queued" else int(reply[1])

    async def rest(self, member: bytes, rest_ms: int) -> None:
        """Let a lease run out that long from now."""
        seconds, micros = (await self._redis.execute(Unit(self._slot).command("TIME")))[0]
        await self.park(member, int(seconds) * 1000 + int(micros) // 1000 + rest_ms)

    async def park(self, member: bytes, until_ms: int) -> None:
        """Let a lease run out at that time (ms, Redis' clock): nobody works on its run before."""
        unit = Unit(self._slot).call(self._redis.scripts["park"], self._keys, member=member, until_ms=until_ms)
        await self._redis.execute(unit)
