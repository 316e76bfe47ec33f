"""Many coroutines, one connection: units of commands go out together, replies are matched first in, first out.

All units submitted in one tick of the event loop leave in one write. A unit is a run of commands whose replies belong
together. A caller that is cancelled leaves its place in the line, so its reply is read and dropped and can never reach
somebody else. When the connection breaks, every caller whose unit was written gets `OutcomeUnknown`; every caller whose
unit was still here gets `StoreUnavailable`; the connection is dialled again with backoff, for as long as it takes.

Nothing is resent here: whether a unit may be sent again is the business of `connection`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis

from agentrt.errors import OutcomeUnknown, StoreUnavailable
from agentrt.tasks import end

__all__ = ["Link", "Multiplexer", "MultiplexerLimits", "RedisReplyError", "Stats"]

log = logging.getLogger("agentrt.redis")


_IN_SCRIPT = re.compile(r"ERR Error running script .*?: -([A-Z]+) ", re.DOTALL)
"""How Redis before 7 words an error that a command inside a script met."""


class RedisReplyError(Exception):
    """An error reply of Redis, as a value; its first word is the error's code."""

    @property
    def code(self) -> str:
        """`OOM`, `READONLY`, `NOSCRIPT`, ..."""
        text = str(self)
        wrapped = _IN_SCRIPT.match(text)
        return wrapped.group(1) if wrapped else text.partition(" ")[0]


class Link(Protocol):
    """A connected and authenticated transport, taken over from redis-py (see `handover`)."""

    transport: asyncio.Transport

    async def close(self) -> None:
        """Give the connection back to redis-py and close it."""
        ...


@dataclass(frozen=True, slots=True)
class MultiplexerLimits:
    """Bounds of one multiplexed connection."""

    reply_timeout_s: float = 1.0
    """Longest wait for the oldest reply; then the connection is given up (it may be half open)."""
    waiters_max: int = 10_000
    buffer_bytes_max: int = 16 * 1024 * 1024
    backoff_s_min: float = 0.02
    backoff_s_max: float = 0.25
    demoted_s_min: float = 0.25
    """A connection younger than this is kept although its server refuses writes: one that stays a replica must not be
    dialled for every write."""


@dataclass(slots=True)
class Stats:
    """Counters since start; tests and metrics read them. Several connections may count together."""

    writes: int = 0
    units: int = 0
    connects: int = 0
    breaks: int = 0


class _Waiter:
    """One unit in the line: how many replies it still wants."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, since: float) -> None:
        self.future = future
        self.count = count
        self.since = since
        self.replies: list[Any] = []


class _Wire(asyncio.Protocol):
    """Receives bytes for one connection and hands replies to the multiplexer that made it."""

    def __init__(self, owner: Multiplexer, greetings: int) -> None:
        self._owner = owner
        self._greetings = greetings
        self.greeted = asyncio.Event()
        """Set when the greeting is answered, or never will be."""
        self.closed = False
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=RedisReplyError, notEnoughData=_Wire)
        self.previous: asyncio.BaseProtocol | None = None

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _Wire:
                if self._greetings:
                    self._greetings -= 1
                    if not self._greetings:
                        self.greeted.set()
                else:
                    self._owner._received(self, reply)
        except ConnectionError as error:
            self._owner._lost(self, error)

    def pause_writing(self) -> None:
        self._owner._pause(True)

    def resume_writing(self) -> None:
        self._owner._pause(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.greeted.set()
        self._owner._lost(self, exc)
        if self.previous is not None:  # redis-py's own protocol waits for this to close its writer
            self.previous.connection_lost(exc)


class Multiplexer:
    """One multiplexed connection to one Redis node. `start` it, `submit` units, `aclose` it."""

    def __init__(
        self,
        dial: Callable[[asyncio.Protocol], Awaitable[Link]],
        limits: MultiplexerLimits | None = None,
        *,
        greeting: tuple[bytes, int] = (b"", 0),
        stats: Stats | None = None,
    ) -> None:
        """`greeting`: packed commands, and their number, that a new connection begins with; replies are dropped."""
        self._dial = dial
        self._limits = limits or MultiplexerLimits()
        self._greeting = greeting
        self.on_connected: Callable[[], None] = lambda: None
        """Called when a connection stands."""
        self._loop = asyncio.get_running_loop()
        self._line: deque[_Waiter] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._unsent_waiters: list[_Waiter] = []
        self._flushing = False
        self._paused = False
        self._wire: _Wire | None = None
        self._link: Link | None = None
        self._broken: list[Link] = []
        self._watchdog: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self.last_error: str = "never connected"
        self._reason = "unreachable"
        self._since = 0.0
        self.lost_at = 0.0
        """When a connection broke last, by the event loop's clock."""
        self.stats = stats or Stats()

    @property
    def connected(self) -> bool:
        """Whether a connection stands."""
        return self._wire is not None

    @property
    def waiting(self) -> int:
        """Units written or buffered whose replies are not here yet."""
        return len(self._line) + len(self._unsent_waiters)

    def start(self) -> None:
        """Begin to connect; `wait_connected` says when."""
        if self._connecting is None and not self._closed:
            self._connecting = self._loop.create_task(self._connect())

    async def wait_connected(self, timeout_s: float) -> None:
        """Return when a connection stands. Raises `StoreUnavailable` after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.connected:
                    if self._closed:
                        raise StoreUnavailable("the connection to Redis is closed", "closed")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise StoreUnavailable(f"no connection to Redis: {self.last_error}", self._reason) from None

    def submit(self, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send a unit of `count` packed commands. The future yields its replies, errors among them as values.

        Raises `StoreUnavailable` at once when there is no connection or a bound is reached: then nothing was sent.
        """
        if self._wire is None:
            raise StoreUnavailable(f"no connection to Redis: {self.last_error}", self._reason)
        limits = self._limits
        if self.waiting >= limits.waiters_max or self._unsent_bytes + len(data) > limits.buffer_bytes_max:
            raise StoreUnavailable("too many commands wait for Redis", "overloaded")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._unsent_waiters.append(_Waiter(future, count, 0.0))
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self.stats.units += 1
        if not self._flushing and not self._paused:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def renew(self, before: float) -> None:
        """Give up a connection that was made before that time: whoever shared its server found it gone since.

        One on which nothing is asked does not notice by itself that its server is frozen.
        """
        if self._wire is not None and self._since < before:
            self._lost(self._wire, ConnectionError("another connection to its server was lost"))

    async def aclose(self) -> None:
        """Close the connection; waiters get `OutcomeUnknown`."""
        self._closed = True
        await end(self._connecting)
        if self._wire is not None:
            self._lost(self._wire, ConnectionError("closed by this pod"))
        await self._close_broken()
        self._changed.set()

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is None or self._link is None or self._paused or not self._unsent:
            return
        now = self._loop.time()
        for waiter in self._unsent_waiters:
            waiter.since = now
        self._line.extend(self._unsent_waiters)
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        self._unsent, self._unsent_waiters, self._unsent_bytes = [], [], 0
        self.stats.writes += 1
        self._link.transport.write(data)
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._limits.reply_timeout_s, self._watch)

    def _received(self, wire: _Wire, reply: Any) -> None:
        if wire is not self._wire:
            return
        if not self._line:
            raise ConnectionError("Redis sent a reply that nobody asked for")
        waiter = self._line[0]
        waiter.replies.append(reply)
        if len(waiter.replies) == waiter.count:
            self._line.popleft()
            if not waiter.future.done():  # cancelled callers have left; their reply is dropped here
                waiter.future.set_result(waiter.replies)
        if type(reply) is RedisReplyError and reply.code == "READONLY":
            self._demoted(wire)

    def _demoted(self, wire: _Wire) -> None:
        """The server is no master any more: whoever is asked for the way again may name another one."""
        if self._loop.time() - self._since >= self._limits.demoted_s_min:
            self._lost(wire, ConnectionError("the server is a replica now"), "readonly")

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        if not paused and self._unsent:
            self._flush()

    def _watch(self) -> None:
        self._watchdog = None
        if self._wire is None or not self._line:
            return
        left = self._line[0].since + self._limits.reply_timeout_s - self._loop.time()
        if left <= 0:
            self._lost(self._wire, ConnectionError(f"no reply within {self._limits.reply_timeout_s} s"))
        else:
            self._watchdog = self._loop.call_later(left, self._watch)

    def _lost(self, wire: _Wire, error: Exception | None, reason: str = "unreachable") -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self._paused = False
        self.lost_at = self._loop.time()
        self.stats.breaks += 1
        self.last_error = str(error or "connection closed by Redis")
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        link, self._link = self._link, None
        if link is not None:
            link.transport.abort()
            self._broken.append(link)
        written, self._line = self._line, deque()
        unsent = self._unsent_waiters
        self._unsent, self._unsent_waiters, self._unsent_bytes = [], [], 0
        for waiter in written:
            if not waiter.future.done():
                waiter.future.set_exception(OutcomeUnknown(f"connection to Redis lost: {self.last_error}", reason))
        for waiter in unsent:
            if not waiter.future.done():
                waiter.future.set_exception(StoreUnavailable(f"connection to Redis lost: {self.last_error}", reason))
        self._reason = reason
        self._connecting = None
        if not self._closed:
            self._connecting = self._loop.create_task(self._connect())

    async def _open(self) -> tuple[_Wire, Link]:
        """A connection that has been greeted. Raises `OSError`, `StoreUnavailable`."""
        self._paused = False  # what one that failed had said of itself
        data, wire = self._greeting[0], _Wire(self, self._greeting[1])
        link = await self._dial(wire)
        try:
            if data:
                link.transport.write(data)
                async with asyncio.timeout(self._limits.reply_timeout_s):
                    await wire.greeted.wait()
            if wire.closed:
                raise ConnectionError("the connection broke at once")
        except BaseException:
            link.transport.abort()
            await link.close()
            raise
        return wire, link

    async def _close_broken(self) -> None:
        while self._broken:
            await self._broken.pop().close()

    async def _connect(self) -> None:
        await self._close_broken()
        delay_s = self._limits.backoff_s_min
        while True:
            try:
                wire, self._link = await self._open()
            except (OSError, StoreUnavailable) as error:
                self.last_error = str(error) or type(error).__name__
                self._reason = getattr(error, "reason", "unreachable")
            except Exception as error:  # the boundary of connecting: whatever it was, this pod must try again
                log.exception("no connection to Redis")
                self.last_error, self._reason = str(error) or type(error).__name__, "unreachable"
            else:
                self._wire = wire
                self._reason = "unreachable"
                self._since = self._loop.time()
                self.stats.connects += 1
                self._connecting = None
                self._changed.set()
                self.on_connected()
                return
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, self._limits.backoff_s_max)
