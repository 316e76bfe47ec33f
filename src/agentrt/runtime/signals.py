"""What autoscalers and alarms read of the whole deployment, brought up to date whenever somebody scrapes."""

from __future__ import annotations

import asyncio
import math

from agentrt.errors import StoreError, StoreUnavailable
from agentrt.store.doubts import Doubts
from agentrt.store.jobs import Jobs
from agentrt.store.queue import Queue
from agentrt.store.vitals import Vitals, readings
from agentrt.telemetry import Telemetry

__all__ = ["Signals"]

_TIMEOUT_S = 0.5


class Signals:
    """Brings the gauges of the queue, of effects in doubt, and of Redis up to date."""

    def __init__(self, queue: Queue, jobs: Jobs, doubts: Doubts, vitals: Vitals, telemetry: Telemetry) -> None:
        self._queue = queue
        self._jobs = jobs
        self._doubts = doubts
        self._vitals = vitals
        self._telemetry = telemetry

    async def refresh(self) -> None:
        """Ask Redis; while it is away the gauges are NaN: a zero would tell an autoscaler to scale down."""
        await asyncio.gather(self._refresh_queue(), self._refresh_vitals())

    async def _refresh_queue(self) -> None:
        waiting, oldest_s, dead, in_doubt, doubted_s, late, buried = (math.nan,) * 7
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                depth, (in_doubt, doubted_s), backlog = await asyncio.gather(
                    self._queue.depth(), self._doubts.count(), self._jobs.backlog()
                )
            waiting, oldest_s, dead = depth.waiting, depth.oldest_s, depth.dead
            late, buried = backlog.late, backlog.buried
        except (StoreError, TimeoutError):
            pass
        telemetry = self._telemetry
        telemetry.queue_depth.set(waiting)
        telemetry.queue_oldest_seconds.set(oldest_s)
        telemetry.dead_letters.set(dead)
        telemetry.effects_in_doubt.set(in_doubt)
        telemetry.effects_in_doubt_oldest_seconds.set(doubted_s)
        telemetry.memory_jobs_late.set(late)
        telemetry.memory_jobs_buried.set(buried)

    async def _refresh_vitals(self) -> None:
        """Apart from the queue: an ACL may well refuse INFO, and that must not blind the autoscaler."""
        values: dict[str, float] = {"up": 0.0}
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                values = readings(await self._vitals.info())
        except StoreUnavailable as error:
            values["up"] = float(error.reason == "noperm")
        except (StoreError, TimeoutError):
            pass
        self._telemetry.redis_vitals.values = values
