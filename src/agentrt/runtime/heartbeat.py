"""The pod's heartbeat: the leases of all its runs are renewed together, every third of their length."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentrt.errors import StoreError
from agentrt.store.leases import Leases
from agentrt.tasks import end

__all__ = ["Heartbeat"]

log = logging.getLogger("agentrt.heartbeat")


class Heartbeat:
    """Keeps the leases of this pod alive. A lease that somebody took is told to its run, which looks at its fence."""

    def __init__(self, leases: Leases, lease_ms: int) -> None:
        self._leases = leases
        self._period_s = lease_ms / 3000
        self._members: dict[bytes, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def aclose(self) -> None:
        """Stop beating; what is still held runs out by itself."""
        await end(self._task)

    def hold(self, member: bytes, on_lost: Callable[[], None]) -> None:
        """Renew this lease from now on; `on_lost` is called when it was missing."""
        self._members[member] = on_lost

    def drop(self, member: bytes) -> None:
        """Renew it no longer."""
        self._members.pop(member, None)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            if not self._members:
                continue
            try:
                missing = await self._leases.renew(list(self._members))
            except StoreError as error:
                log.warning("leases not renewed: %s", error)
                continue
            for member in missing:
                on_lost = self._members.get(member)
                if on_lost is not None:
                    on_lost()
