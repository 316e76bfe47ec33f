"""A connection of its own for what replicas must have before it counts: WAIT stands behind the scripts.

WAIT speaks of its own connection alone, and holds up whatever comes behind it there, so it must never stand on the
multiplexed one. Units that come while one WAIT is under way share the next.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from agentrt.errors import StoreUnavailable
from agentrt.store.multiplexer import Multiplexer
from agentrt.store.scripts import pack

__all__ = ["Acknowledged"]

_AT_ONCE = 256
_WAITERS_MAX = 10_000


class Acknowledged:
    """Takes units as a `Multiplexer` does; the last reply is the number of replicas that have it, after at most
    `timeout_ms`."""

    def __init__(self, line: Multiplexer, replicas: int, timeout_ms: int) -> None:
        self._line = line
        self._wait = pack("WAIT", replicas, timeout_ms)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, int, asyncio.Future[list[Any]]]] = []
        self._under_way = False
        self.wait_connected = line.wait_connected
        self.start = line.start

    @property
    def waiting(self) -> int:
        """Units that are not acknowledged so far."""
        return self._line.waiting + len(self._waiting)

    async def aclose(self) -> None:
        """Close the connection; waiters get `OutcomeUnknown`, or `StoreUnavailable` where nothing was sent."""
        await self._line.aclose()

    def submit(self, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """See `Multiplexer.submit`: here `count` replies, and behind them the number of replicas."""
        if len(self._waiting) >= _WAITERS_MAX:
            raise StoreUnavailable("too many commands wait for replicas", "overloaded")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append((data, count, future))
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        """Everything that waits now, and one WAIT behind it."""
        group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        if not group:
            self._under_way = False
            return
        try:
            sent = self._line.submit(
                b"".join([data for data, _, _ in group]) + self._wait, sum(n for _, n, _ in group) + 1
            )
        except StoreUnavailable as error:
            self._fail(group, error)
            self._loop.call_soon(self._send)
            return
        sent.add_done_callback(partial(self._answered, group))

    def _answered(
        self, group: list[tuple[bytes, int, asyncio.Future[list[Any]]]], sent: asyncio.Future[list[Any]]
    ) -> None:
        self._send()
        error = sent.exception()
        if error is not None:
            self._fail(group, error)
            return
        replies = sent.result()
        replicas = replies[-1] if isinstance(replies[-1], int) else 0
        first = 0
        for _, count, future in group:
            if not future.done():
                future.set_result([*replies[first : first + count], replicas])
            first += count

    @staticmethod
    def _fail(group: list[tuple[bytes, int, asyncio.Future[list[Any]]]], error: BaseException) -> None:
        for _, _, future in group:
            if not future.done():
                future.set_exception(error)
