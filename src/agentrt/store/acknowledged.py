"""A connection of its own for what replicas must have before it counts: WAIT stands behind the scripts.

WAIT speaks of its own connection alone, and holds up whatever comes behind it there, so it must never stand on the
multiplexed one. Units that come while one WAIT is under way share the next, as far as their number and their bytes are
bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from agentrt.errors import StoreUnavailable
from agentrt.store.multiplexer import Multiplexer
from agentrt.store.scripts import pack

__all__ = ["Acknowledged"]

_AT_ONCE = 256
_BYTES_AT_ONCE = 4 * 1024 * 1024
"""A group that replicas need longer for than they are given would be refused as a whole."""
_WAITERS_MAX = 10_000
_BYTES_MAX = 16 * 1024 * 1024


class _Unit(NamedTuple):
    """A unit that waits: its packed commands, how many replies they get, and who wants those."""

    data: bytes
    replies: int
    future: asyncio.Future[list[Any]]


class Acknowledged:
    """Takes units as a `Multiplexer` does; the last reply is the number of replicas that have it, after at most
    `timeout_ms`."""

    def __init__(self, line: Multiplexer, replicas: int, timeout_ms: int) -> None:
        self._line = line
        self._wait = pack("WAIT", replicas, timeout_ms)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Unit] = deque()
        self._waiting_bytes = 0
        self._under_way = False
        self.wait_connected = line.wait_connected
        self.start = line.start
        self.renew = line.renew

    @property
    def waiting(self) -> int:
        """Units that are not acknowledged so far."""
        return self._line.waiting + len(self._waiting)

    async def aclose(self) -> None:
        """Close the connection; waiters get `OutcomeUnknown`, or `StoreUnavailable` where nothing was sent."""
        await self._line.aclose()

    def submit(self, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """See `Multiplexer.submit`: here `count` replies, and behind them the number of replicas.

        What waits is at most 10,000 units and 16 MiB; more is refused with `StoreUnavailable`, `overloaded`.
        """
        if len(self._waiting) >= _WAITERS_MAX or self._waiting_bytes + len(data) > _BYTES_MAX:
            raise StoreUnavailable("too many commands wait for replicas", "overloaded")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append(_Unit(data, count, future))
        self._waiting_bytes += len(data)
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        """What waits now, and one WAIT behind it."""
        group = self._next_group()
        if not group:
            self._under_way = False
            return
        try:
            packed = b"".join([unit.data for unit in group]) + self._wait
            sent = self._line.submit(packed, sum(unit.replies for unit in group) + 1)
        except StoreUnavailable as error:
            self._fail(group, error)
            self._loop.call_soon(self._send)
            return
        sent.add_done_callback(partial(self._answered, group))

    def _next_group(self) -> list[_Unit]:
        """The units that share the next WAIT; at least one, if any waits."""
        group: list[_Unit] = []
        size = 0
        while self._waiting and len(group) < _AT_ONCE:
            size += len(self._waiting[0].data)
            if group and size > _BYTES_AT_ONCE:
                break
            unit = self._waiting.popleft()
            self._waiting_bytes -= len(unit.data)
            group.append(unit)
        return group

    def _answered(self, group: Sequence[_Unit], sent: asyncio.Future[list[Any]]) -> None:
        self._send()
        error = sent.exception()
        if error is not None:
            self._fail(group, error)
            return
        replies = sent.result()
        replicas = replies[-1] if isinstance(replies[-1], int) else 0
        first = 0
        for unit in group:
            if not unit.future.done():
                unit.future.set_result([*replies[first : first + unit.replies], replicas])
            first += unit.replies

    @staticmethod
    def _fail(group: Sequence[_Unit], error: BaseException) -> None:
        for unit in group:
            if not unit.future.done():
                unit.future.set_exception(error)
