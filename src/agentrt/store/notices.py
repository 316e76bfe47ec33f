"""Wake-up calls between pods: one pub/sub connection a pod. Hints only; whoever waits also polls."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import orjson
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from agentrt.store.connection import Redis, RedisOptions, Unit, new_pool
from agentrt.store.keys import QueueKeys, pod_channel
from agentrt.tasks import end

__all__ = ["Notices"]

_RECONNECT_S = 0.5
_READ_S = 1.0
_DEAF_AFTER = 3
"""Reads in a row without even the answer to a ping: the connection is half open."""


class Notices:
    """Listens on this pod's channel and wakes whoever waits for a (session, run)."""

    def __init__(self, redis: Redis, options: RedisOptions, pod: str) -> None:
        self._redis = redis
        self._options = options
        self._channel = pod_channel(pod)
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._queue = QueueKeys().channel
        self.on_queued: Callable[[], None] = lambda: None
        """Called when something begins to wait in the queue."""
        self.cancelled: set[str] = set()
        """Runs of this pod that somebody asked to cancel; the turn takes its own out."""

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def aclose(self) -> None:
        """Stop listening."""
        await end(self._task)

    def subscribe(self, run: str) -> asyncio.Event:
        """An event that is set whenever something is said about `run`; give it back with `unsubscribe`."""
        event = asyncio.Event()
        self._waiting[run].add(event)
        return event

    def unsubscribe(self, run: str, event: asyncio.Event) -> None:
        """Forget the event."""
        events = self._waiting[run]
        events.discard(event)
        if not events:
            del self._waiting[run]

    async def listening(self, pod: str) -> bool:
        """Whether a pod's own subscription stands. A killed pod's is gone at once, long before its leases run out."""
        channel = pod_channel(pod)
        reply = (await self._redis.execute(Unit(channel.encode()).command("PUBSUB", "NUMSUB", channel)))[0]
        return int(reply[1]) > 0

    def wake_all(self) -> None:
        """Let whoever waits look for itself."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _wake(self, channel: bytes, data: bytes) -> None:
        if channel == self._queue.encode():
            self.on_queued()
            return
        kind, _session, run = orjson.loads(data)
        if kind == "cancel":
            self.cancelled.add(run)
        for event in self._waiting.get(run, ()):
            event.set()

    async def _listen(self) -> None:
        pause_s = 0.0
        while True:
            pool = new_pool(self._options)
            pubsub = PubSub(pool)
            try:
                await pubsub.subscribe(self._channel, self._queue)
                pause_s, silent = 0.0, 0
                while True:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_READ_S)
                    silent = 0 if message is not None else silent + 1
                    if silent == _DEAF_AFTER:
                        raise OSError("the subscription does not answer")
                    if message is None:
                        await pubsub.ping()
                    elif message["type"] == "message":  # the answer to a ping comes this way too
                        self._wake(message["channel"], message["data"])
            except (RedisError, OSError):
                # What was missed meanwhile is found by the polls behind every wait.
                self.wake_all()
                await asyncio.sleep(pause_s)
                pause_s = _RECONNECT_S  # the first time at once: others take silence for death
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
                await pool.disconnect()
