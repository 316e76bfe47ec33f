"""What an autoscaler reads: the gauges of the queue, brought up to date whenever somebody scrapes."""

from __future__ import annotations

import asyncio
import math

from agentrt.errors import StoreError
from agentrt.store.jobs import Jobs
from agentrt.store.queue import Queue
from agentrt.telemetry import Telemetry

__all__ = ["Signals"]

_TIMEOUT_S = 0.5


class Signals:
    """Brings the gauges of the queue up to date."""

    def __init__(self, queue: Queue, jobs: Jobs, telemetry: Telemetry) -> None:
        self._queue = queue
        self._jobs = jobs
        self._telemetry = telemetry

    async def refresh(self) -> None:
        """Ask Redis; while it is away the gauges are NaN: a zero would tell an autoscaler to scale down."""
        waiting, oldest_s, dead, late, buried = (math.nan,) * 5
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                depth, backlog = await asyncio.gather(self._queue.depth(), self._jobs.backlog())
            waiting, oldest_s, dead = depth.waiting, depth.oldest_s, depth.dead
            late, buried = backlog.late, backlog.buried
        except (StoreError, TimeoutError):
            pass
        self._telemetry.queue_depth.set(waiting)
        self._telemetry.queue_oldest_seconds.set(oldest_s)
        self._telemetry.dead_letters.set(dead)
        self._telemetry.memory_jobs_late.set(late)
        self._telemetry.memory_jobs_buried.set(buried)
