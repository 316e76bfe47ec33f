"""What an autoscaler reads: the gauges of the queue, brought up to date whenever somebody scrapes."""

from __future__ import annotations

import asyncio
import math

from agentrt.errors import StoreError
from agentrt.store.queue import Queue
from agentrt.telemetry import Telemetry

__all__ = ["Signals"]

_TIMEOUT_S = 0.5


class Signals:
    """Brings the gauges of the queue up to date."""

    def __init__(self, queue: Queue, telemetry: Telemetry) -> None:
        self._queue = queue
        self._telemetry = telemetry

    async def refresh(self) -> None:
        """Ask Redis; while it is away the gauges are NaN: a zero would tell an autoscaler to scale down."""
        waiting, oldest_s, dead = math.nan, math.nan, math.nan
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                depth = await self._queue.depth()
            waiting, oldest_s, dead = depth.waiting, depth.oldest_s, depth.dead
        except (StoreError, TimeoutError):
            pass
        self._telemetry.queue_depth.set(waiting)
        self._telemetry.queue_oldest_seconds.set(oldest_s)
        self._telemetry.dead_letters.set(dead)
