"""The pod's sweeper: finds leases that have run out. Every pod has one; none holds a lock for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from agentrt.errors import StoreError
from agentrt.store.queue import Queue
from agentrt.tasks import end

__all__ = ["Sweeper"]

log = logging.getLogger("agentrt.sweeper")

_PERIOD_S = 1.0
_BATCH = 200
_BATCHES_MAX = 10
"""So much at once; the rest a moment later, lest a sweep of thousands holds up Redis."""


class Sweeper:
    """Sweeps once a period, half of it left to chance so that pods do not keep step. `wake` hears that runs wait."""

    def __init__(self, queue: Queue, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._wake = wake
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.get_running_loop().create_task(self._sweep())

    async def aclose(self) -> None:
        """Stop sweeping."""
        await end(self._task)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S * random.uniform(0.5, 1.0))
            try:
                waiting = await self._once()
            except StoreError as error:
                log.warning("not swept: %s", error)
                continue
            if waiting:
                self._wake()

    async def _once(self) -> int:
        waiting = 0
        for _ in range(_BATCHES_MAX):
            moved, waiting = await self._queue.sweep(_BATCH)
            if moved < _BATCH:
                break
        return waiting
