"""The pod's worker: takes runs from the queue while there is a free slot."""

from __future__ import annotations

import asyncio
import logging

from agentrt.errors import AgentrtError, StoreError
from agentrt.runtime.claims import Claims
from agentrt.runtime.runs import Runs
from agentrt.store.keys import new_id
from agentrt.store.queue import Queue

__all__ = ["Worker"]

log = logging.getLogger("agentrt.worker")

_BATCH = 32


class Worker:
    """Takes when it is woken: by an announcement, by the sweeper's look once a second, by a slot that became free."""

    def __init__(self, queue: Queue, claims: Claims, runs: Runs) -> None:
        self._queue = queue
        self._claims = claims
        self._runs = runs
        self._woken = asyncio.Event()
        self._full = False
        """Something waits, and there was no slot for it."""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    def wake(self) -> None:
        """Something waits."""
        self._woken.set()

    def slot_free(self) -> None:
        """A slot became free."""
        if self._full:
            self._woken.set()

    def stop(self) -> None:
        """Take nothing any more."""
        self._stopping = True
        self._woken.set()

    async def aclose(self) -> None:
        """Stop, with the take under way finished: its reply must not get lost."""
        self.stop()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._stopping:
                return
            try:
                await self._take()
            except StoreError as error:
                log.warning("nothing taken from the queue: %s", error)

    async def _take(self) -> None:
        runs = self._runs
        while not self._stopping:
            count = min(runs.free, _BATCH)
            self._full = count <= 0
            if self._full:
                return
            runs.expected += count
            members: tuple[bytes, ...] = ()
            try:
                members = tuple(await self._queue.take(count, new_id()))
            finally:
                runs.expected -= count - len(members)
            for member in members:
                runs.spawn(self._recover(member))
            if len(members) < count:
                return

    async def _recover(self, member: bytes) -> None:
        try:
            await self._claims.recover(member)
        except AgentrtError as error:
            log.warning("an entry of the queue comes back later: %s: %s", type(error).__name__, error)
        finally:
            self._runs.expected -= 1
            self.slot_free()
