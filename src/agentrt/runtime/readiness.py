"""Whether this pod should get traffic: Redis is asked every second; two failures say no, two answers say yes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentrt.errors import StoreError
from agentrt.store.durability import Durability
from agentrt.store.probe import Probe
from agentrt.tasks import end
from agentrt.telemetry import Telemetry

__all__ = ["Check", "Readiness"]

log = logging.getLogger("agentrt.readiness")

_PERIOD_S = 1.0
_TIMEOUT_S = 0.5
_FALL = 2
_RISE = 2


@dataclass(slots=True)
class Check:
    """One thing that readiness rests on."""

    state: str = "starting"
    reason: str = ""
    since: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)

    def turn(self, state: str, reason: str = "") -> None:
        """Take a new state; its age counts from the change."""
        if state != self.state:
            self.since = time.monotonic()
        self.state, self.reason = state, reason

    def report(self) -> dict[str, object]:
        """As JSON: state, reason, seconds in this state, seconds since it was last asked."""
        now = time.monotonic()
        return {
            "state": self.state,
            "reason": self.reason or None,
            "age_seconds": round(now - self.since, 3),
            "asked_seconds_ago": round(now - self.asked, 3),
        }


class Readiness:
    """Probes Redis and remembers."""

    def __init__(self, probe: Probe, telemetry: Telemetry, survey: Callable[[], Awaitable[Durability]]) -> None:
        """`survey` finds out what Redis keeps; it is asked whenever Redis begins to serve."""
        self._probe = probe
        self._survey = survey
        self._telemetry = telemetry
        self._task: asyncio.Task[None] | None = None
        self._run = 0
        """Answers in a row when positive, failures in a row when negative."""
        self.redis = Check()
        self.durability = Check()
        """What Redis keeps: its state is the setting of the append-only file. No traffic is refused for it."""
        self.draining = False
        """The pod goes away: no new traffic, whatever Redis says."""
        telemetry.ready.set_function(lambda: float(self.ready))

    @property
    def ready(self) -> bool:
        """Whether to send traffic here."""
        return self.redis.state == "ok" and not self.draining

    def start(self) -> None:
        """Begin to probe."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def aclose(self) -> None:
        """Stop probing."""
        await end(self._task)
        await self._probe.aclose()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            served = self.redis.state == "ok"
            reason = await self._probe.ask(_TIMEOUT_S)
            self._telemetry.probe_seconds.observe(loop.time() - begun)
            self.take(reason)
            if self.redis.state == "ok" and (not served or self.durability.state == "starting"):
                await self._look()
            await asyncio.sleep(max(0.0, begun + _PERIOD_S - loop.time()))

    async def _look(self) -> None:
        """Find out what this Redis keeps, and warn of what it does not."""
        self.durability.asked = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._survey()
        except (StoreError, TimeoutError) as error:
            log.info("what Redis keeps is not known: %s", error)
            return
        for warning in found.warnings:
            log.warning("the state Redis: %s", warning)
        self.durability.turn(found.aof, "; ".join([found.keeps, *found.warnings]))

    def take(self, reason: str | None) -> None:
        """Count one answer of the probe; None is a good one. The first good one after the start is enough."""
        check = self.redis
        check.asked = time.monotonic()
        if reason is None:
            self._run = max(self._run, 0) + 1
            if self._run >= _RISE or check.state == "starting":
                check.turn("ok")
            return
        self._telemetry.probe_failures.labels(reason).inc()
        self._run = min(self._run, 0) - 1
        if -self._run >= _FALL or check.state == "starting":
            check.turn("down", reason)
