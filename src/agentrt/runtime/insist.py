"""Insisting on a write of a run while Redis is away: giving up loses paid work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentrt.errors import NotAcknowledged, StoreUnavailable

__all__ = ["insist"]

_FOR_S = 30.0
_PAUSE_S = 0.25

_T = TypeVar("_T")


async def insist(write: Callable[[], Awaitable[_T]]) -> _T:
    """Try a write again while Redis is away; only for writes that sending again does not repeat.

    Raises the last `StoreUnavailable` after 30 s, and `NotAcknowledged` at once: that is not for waiting, but for going
    back.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _FOR_S
    while True:
        try:
            return await write()
        except NotAcknowledged:
            raise
        except StoreUnavailable:
            if loop.time() >= give_up:
                raise
            await asyncio.sleep(_PAUSE_S)
