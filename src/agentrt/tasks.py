"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end"]

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
