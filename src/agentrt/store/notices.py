"""Wake-up calls between pods: one pub/sub connection a pod. Hints only; whoever waits also polls."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable

import hiredis
import orjson

from agentrt.errors import StoreUnavailable
from agentrt.store.connection import Redis, RedisOptions, Unit
from agentrt.store.discovery import find
from agentrt.store.handover import take_over
from agentrt.store.keys import QueueKeys, pod_channel, users_channel
from agentrt.store.scripts import pack
from agentrt.tasks import end

__all__ = ["Notices", "heard"]

log = logging.getLogger("agentrt.notices")

_RECONNECT_S = 0.5
_SILENCE_S = 2.0
"""A subscription that has said nothing for this long is pinged; when it says nothing for as long again, it is dead."""
_PING = pack("PING")
_SETTLING_S = 5.0
"""After a fail-over pods find the new server one after the other: until then a missing subscription says nothing."""


class Notices:
    """Listens on this pod's channel and wakes whoever waits: for a run (`granted`, `logged`, `cancel`), or in the line
    of a named lock (`lock`, which names the token that it was handed to)."""

    def __init__(self, redis: Redis, options: RedisOptions, pod: str) -> None:
        self._redis = redis
        self._options = options
        self._channel = pod_channel(pod)
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._queue = QueueKeys().channel
        self.on_queued: Callable[[], None] = lambda: None
        """Called when something begins to wait in the queue."""
        self.on_erased: Callable[[str], None] = lambda _: None
        """Called with `tenant/user` when a user is erased."""
        self.cancelled: dict[str, str] = {}
        """Runs of this pod that somebody asked to cancel, and how; the turn takes its own out."""
        self.steered: set[str] = set()
        """Runs of this pod that more messages came to; the turn takes its own out."""
        self.at_work: set[str] = set()
        """The runs that this pod works on: what is said of others is in their records."""
        self._ear: _Ear | None = None
        self._moved_at = float("-inf")
        self._heard_at = time.monotonic()

    @property
    def age_s(self) -> float:
        """Since the subscription last said something; up to 2 s while it stands, which is when it is pinged."""
        return time.monotonic() - self._heard_at

    def start(self) -> None:
        """Begin to listen."""
        self._redis.on_reconnect = self._follow
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def aclose(self) -> None:
        """Stop listening."""
        await end(self._task)

    def subscribe(self, subject: str) -> asyncio.Event:
        """An event that is set whenever something is said about a run, or a waiter's token; see `unsubscribe`."""
        event = asyncio.Event()
        self._waiting[subject].add(event)
        return event

    def unsubscribe(self, subject: str, event: asyncio.Event) -> None:
        """Forget the event."""
        events = self._waiting[subject]
        events.discard(event)
        if not events:
            del self._waiting[subject]

    async def listening(self, pod: str) -> bool:
        """Whether a pod's own subscription stands. A killed pod's is gone at once, long before its leases run out.

        Nothing is known of it, and it is said to stand, on a Cluster, whose nodes know only their own subscribers, and
        for some seconds behind a fail-over.
        """
        if self._redis.clustered or time.monotonic() - self._moved_at < _SETTLING_S:
            return True
        channel = pod_channel(pod)
        reply = (await self._redis.execute(Unit(channel.encode()).command("PUBSUB", "NUMSUB", channel)))[0]
        return int(reply[1]) > 0

    def wake_all(self) -> None:
        """Let whoever waits look for itself."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _follow(self) -> None:
        """Commands go over a new connection, perhaps to another server: listen there, too."""
        self._moved_at = time.monotonic()
        if self._ear is not None:
            self._ear.closed.set()

    def _wake(self, channel: bytes, data: bytes) -> None:
        if channel == self._queue.encode():
            self.on_queued()
            return
        if channel == users_channel().encode():
            self.on_erased(data.decode())
            return
        kind, _where, subject, *how = orjson.loads(data)
        if kind == "cancel" and subject in self.at_work:
            self.cancelled[subject] = how[0] if how else "1"
        elif kind == "steer" and subject in self.at_work:
            self.steered.add(subject)
        for event in self._waiting.get(subject, ()):
            event.set()

    def _sign(self) -> None:
        self._heard_at = time.monotonic()

    async def _listen(self) -> None:
        pause_s = 0.0
        while True:
            ear = self._ear = _Ear(self._wake, self._sign)
            try:
                await self._hear(ear)
            except (StoreUnavailable, OSError) as error:
                log.debug("no subscription: %s", error)
            except Exception:  # the boundary of listening: whatever it was, a pod must not stay deaf
                log.exception("the subscription failed")
            # What was missed meanwhile is found by the polls behind every wait.
            self.wake_all()
            if ear.subscribed:
                pause_s = 0.0
            await asyncio.sleep(pause_s)
            pause_s = _RECONNECT_S  # the first time at once: others take silence for death

    async def _hear(self, ear: _Ear) -> None:
        """One connection, until it breaks or falls silent."""
        link = await take_over(await find(self._options, self._channel.encode()), ear)
        try:
            link.transport.write(pack("SUBSCRIBE", self._channel, self._queue, users_channel()))
            while True:
                ear.heard = False
                try:
                    async with asyncio.timeout(_SILENCE_S):
                        await ear.closed.wait()
                        return
                except TimeoutError:
                    # Not even the answer to the last ping: half open. Or closed in this very moment.
                    if not ear.heard or ear.closed.is_set():
                        return
                    link.transport.write(_PING)
        finally:
            link.transport.abort()
            await link.close()


class _Ear(asyncio.Protocol):
    """Receives what is said on a subscription. redis-py's own way costs more than all the rest of a wake-up."""

    def __init__(self, wake: Callable[[bytes, bytes], None], sign: Callable[[], None]) -> None:
        self._wake = wake
        self._sign = sign
        self._reader = hiredis.Reader()
        self.previous: asyncio.BaseProtocol | None = None
        self.closed = asyncio.Event()
        self.subscribed = False
        self.heard = False

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if type(reply) is not list:  # an error: not allowed to listen, which is no sign of a subscription
                    self.closed.set()
                    continue
                self._sign()
                if reply[0] == b"message":
                    self._wake(reply[1], reply[2])
                elif reply[0] == b"subscribe":
                    self.subscribed = True
        except (hiredis.ProtocolError, ValueError):  # bytes that are not Redis', a notice that is not ours
            self.closed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        if self.previous is not None:  # redis-py's own protocol waits for this to close its writer
            self.previous.connection_lost(exc)


async def heard(notice: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a notice that `subscribe` gave, or for the time of the poll behind it; whether it came."""
    try:
        async with asyncio.timeout(timeout_s):
            await notice.wait()
    except TimeoutError:
        return False
    notice.clear()
    return True
