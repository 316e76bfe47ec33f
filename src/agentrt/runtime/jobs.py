"""The pod's worker for jobs in the background: takes what is due, a few at a time, and never delays a turn for it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from agentrt.errors import AgentrtError, SchemaNewer, StoreError, StoreUnavailable, UserGone
from agentrt.runtime.clock import wall_ms
from agentrt.store.jobs import Job, Jobs
from agentrt.tasks import end
from agentrt.telemetry import Telemetry

__all__ = ["Again", "Handler", "JobWorker", "backoff_s"]

log = logging.getLogger("agentrt.jobs")

_PERIOD_S = 1.0
_LEASE_MS = 60_000
_TIMEOUT_S = 50.0
"""A job ends before its lease does; what it did so far is kept, and it comes back."""
_TRIES_MAX = 10
"""With the pauses between them about six minutes: a provider may be away for that long."""


class Again(Exception):
    """Raised by a handler: the job is to be done again after a while.

    `buries`: this was in vain for good. `counts`: it was a try; not where something came of it and more is to be done.
    """

    def __init__(self, reason: str, delay_s: float | None = None, *, buries: bool = False, counts: bool = True) -> None:
        super().__init__(reason)
        self.delay_s = delay_s
        self.buries = buries
        self.counts = counts


Handler = Callable[[Job], Awaitable[None]]
"""Does a job. Returning ends it; `Again`, or any other error, brings it back."""


def backoff_s(tries: int) -> float:
    """The pause behind a failed try: 1 s, 2 s, 4 s, ... up to 60 s, and up to half of it left to chance."""
    return float(min(60.0, 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0))


class JobWorker:
    """Does jobs, at most `at_once`; 0: none on this pod."""

    def __init__(self, jobs: Jobs, handlers: Mapping[str, Handler], telemetry: Telemetry, at_once: int) -> None:
        self._jobs = jobs
        self._handlers = handlers
        self._telemetry = telemetry
        self._at_once = at_once
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to take jobs."""
        if self._at_once > 0:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    async def aclose(self) -> None:
        """Stop; what is under way is given back for others to do."""
        self._stopping = True
        await end(self._task)
        await asyncio.gather(*(end(task) for task in list(self._working)))

    async def _work(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PERIOD_S * random.uniform(0.5, 1.0)):
                    await self._woken.wait()
            except TimeoutError:
                pass  # the poll behind every wake-up: pauses end without one
            self._woken.clear()
            try:
                await self._take()
            except StoreError as error:
                log.warning("no jobs taken: %s", error)

    async def _take(self) -> None:
        while (free := self._at_once - len(self._working)) > 0:
            taken = await self._jobs.take(free, _LEASE_MS)
            for job in taken:
                task = asyncio.get_running_loop().create_task(self._do(job))
                self._working.add(task)
                task.add_done_callback(self._ended)
            if len(taken) < free:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job comes back when its lease is over: %s: %s", type(error).__name__, error)

    async def _do(self, job: Job) -> None:
        started = time.perf_counter()
        outcome = "lost"
        try:
            outcome = await self._outcome(job)
        except asyncio.CancelledError:
            outcome = "handed_over"
            await asyncio.shield(self._jobs.again(job, 0, counts=False))
            raise
        finally:
            kind = job.kind if job.kind in self._handlers else "unknown"
            self._telemetry.memory_jobs.labels(kind, outcome).inc()
            self._telemetry.memory_job_seconds.labels(kind).observe(time.perf_counter() - started)

    async def _outcome(self, job: Job) -> str:
        handler = self._handlers.get(job.kind)
        if handler is None:  # of a newer pod: it will take it
            await self._jobs.again(job, _PERIOD_S, counts=False)
            return "put_back"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await handler(job)
        except UserGone as error:
            log.info("job %s is dropped: %s", job.kind, error)
        except SchemaNewer as error:
            log.info("job %s is put back for a newer pod: %s", job.kind, error)
            await self._jobs.again(job, _PERIOD_S, counts=False)
            return "put_back"
        except StoreUnavailable as error:  # whose reasons pass; what Redis refuses for good is a try like any other
            log.warning("job %s comes back: %s", job.kind, error)
            await self._jobs.again(job, backoff_s(job.tries), counts=False)
            return "retried"
        except Again as error:
            return await self._later(job, error)
        except TimeoutError:
            return await self._later(job, Again("it took too long"))
        except AgentrtError as error:
            return await self._later(job, Again(str(error)))
        except Exception as error:  # the boundary of a job: a defect of ours ends this job, not the pod
            log.exception("job %s failed", job.kind)
            return await self._later(job, Again(type(error).__name__))
        return "done" if await self._jobs.done(job) else "again"

    async def _later(self, job: Job, why: Again) -> str:
        if why.buries or (why.counts and job.tries >= _TRIES_MAX):
            if not await self._jobs.bury(job, str(why), wall_ms()):
                return "again"
            log.error("job %s is given up after %d tries: %s", job.kind, job.tries, why)
            return "buried"
        log.info("job %s comes back: %s", job.kind, why)
        delay_s = backoff_s(job.tries) if why.delay_s is None else why.delay_s
        await self._jobs.again(job, delay_s, counts=why.counts)
        return "retried"
