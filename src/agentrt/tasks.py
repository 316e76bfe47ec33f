"""Ending background tasks for certain, and seeing small jobs through when their caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Errands", "end"]

_AGAIN_S = 0.2


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task until it has ended; its result or error is dropped.

    Once is not enough: `asyncio.wait_for`, which redis-py uses, swallows a cancellation that meets the end of what it
    waits for (CPython 3.11), and a loop around it goes on.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_S)
    if task is not None and not task.cancelled():
        task.exception()


class Errands:
    """Jobs that are done to their end although whoever started them was cancelled. They bound and handle themselves."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a job, and keep it alive: the event loop alone would not."""
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self, timeout_s: float) -> None:
        """Wait for what is under way; what takes longer is cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in list(self._tasks):
            await end(task)
