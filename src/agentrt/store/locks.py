"""Named locks: mutual exclusion around what must not run twice at once, for all pods of a tenant.

The lock is for order and for saving work; the journal and the fence are what correctness rests on. A pause between the
last look at the deadline and the packet that leaves is not seen by any lock: send `fence` downstream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from agentrt.errors import LockLost, LockTimeout, StoreError
from agentrt.store.connection import Redis, RedisOptions, check_url
from agentrt.store.keys import LockKeys
from agentrt.store.line import Line
from agentrt.store.notices import Notices
from agentrt.store.quorum import Quorum
from agentrt.store.tenure import LockConfig, Taker, Tenure
from agentrt.tasks import Errands
from agentrt.telemetry import Telemetry

__all__ = ["Held", "Holding", "LockConfig", "Locks", "open_locks"]

log = logging.getLogger("agentrt.locks")

_LOOK_MS = 100.0
"""How often held locks are looked after: often, since the event loop's timers stand still while the machine sleeps."""
_AGAIN_MS = 200.0
"""After a renewal that Redis did not answer."""
_TOKEN_LENGTH_MIN = 22
_CLOSE_S = 1.0
_KEEP_ON_QUORUM_S = 3_600


class Held:
    """A lock that this pod holds. It renews itself every third of its time until `release`, or until it is lost."""

    __slots__ = (
        *("deadline_ms", "fence", "lost", "why"),
        *("_config", "_last_ms", "_lock", "_on_lost", "_released", "_renew_ms", "_renewing"),
        *("_taker", "_telemetry", "_token"),
    )

    def __init__(self, taker: Taker, lock: LockKeys, tenure: Tenure, config: LockConfig, telemetry: Telemetry) -> None:
        self.fence = tenure.fence
        """Grows whenever the lock changes hands; send it downstream."""
        self.deadline_ms = tenure.deadline_ms
        """On the pod's boot-time clock; the lock counts as lost a margin before it (2 s of a TTL of 30)."""
        self.lost = asyncio.Event()
        """Set when the lock is lost. Then nothing may be sent any more that relies on it."""
        self.why = ""
        """Why it was lost: `deadline` or `taken`."""
        self._taker = taker
        self._lock = lock
        self._token = tenure.token
        self._config = config
        self._telemetry = telemetry
        self._on_lost: Callable[[], object] | None = None
        now_ms = config.clock_ms()
        self._renew_ms = now_ms + config.lock_ms / 3
        self._last_ms = now_ms + config.lifetime_s * 1000
        self._renewing: asyncio.Task[None] | None = None
        self._released = False

    @property
    def left_ms(self) -> float:
        """How long the lock may still be relied on, negative when it may not."""
        return self.deadline_ms - self._config.margin_ms - self._config.clock_ms()

    def check(self) -> None:
        """The last look before something leaves that needs the lock. Raises `LockLost`."""
        if not self.lost.is_set() and self.left_ms <= 0:
            self._lose("deadline")
        if self.over:
            why = self.why or "released"
            raise LockLost(f"the lock {self._lock.tag.decode()} is not held any more: {why}", why)

    def tell(self, on_lost: Callable[[], object] | None) -> None:
        """Call this, once, when the lock is lost or if it is by now; from the event loop, never from in here.

        None: nobody need be told any more.
        """
        self._on_lost = on_lost
        if on_lost is not None and self.lost.is_set():
            asyncio.get_running_loop().call_soon(on_lost)

    async def release(self) -> None:
        """Stop renewing, then give the lock back, lost or not: only its own token is taken out. Also when cancelled."""
        self._released = True
        if self._renewing is not None:
            self._renewing.cancel()  # what it sent is executed before the release
        await self._taker.release(self._lock, self._token)

    @property
    def over(self) -> bool:
        """Given back or lost: there is nothing to look after any more."""
        return self._released or self.lost.is_set()

    def look(self, now_ms: float) -> None:
        """What is due by now: to lose the lock, or to renew it. A renewal under way delays no loss."""
        if now_ms >= self.deadline_ms - self._config.margin_ms:
            self._lose("deadline")
        elif self._renewing is None and self._renew_ms <= now_ms < self._last_ms:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        config = self._config
        asked_ms = config.clock_ms()
        try:
            deadline_ms = await self._taker.renew(self._lock, self._token)
        except StoreError as error:
            log.info("a lock was not renewed: %s", error)
            self._renew_ms = config.clock_ms() + min(_AGAIN_MS, config.lock_ms / 30)
        else:
            if deadline_ms is None:
                self._lose("taken")
                return
            self.deadline_ms = deadline_ms
            self._renew_ms = asked_ms + config.lock_ms / 3
        self._renewing = None

    def _lose(self, why: str) -> None:
        if self._released or self.lost.is_set():
            return
        log.warning("the lock %s was lost: %s", self._lock.tag.decode(), why)
        self._telemetry.locks_lost.labels(why).inc()
        self.why = why
        self.lost.set()
        if self._on_lost is not None:
            asyncio.get_running_loop().call_soon(self._on_lost)


class Holding:
    """The block of `Locks.hold`."""

    __slots__ = ("_acquiring", "_cancelled_before", "_held", "_inside", "_interrupted", "_task")

    def __init__(self, acquiring: Coroutine[Any, Any, Held]) -> None:
        self._acquiring = acquiring
        self._inside = True
        self._interrupted = False

    async def __aenter__(self) -> Held:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._held = await self._acquiring
        self._cancelled_before = task.cancelling()
        self._held.tell(self._interrupt)
        return self._held

    def _interrupt(self) -> None:
        if self._inside:
            self._interrupted = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        # As `asyncio.timeout` has it: only a cancellation that is all ours becomes an error of ours.
        ours = self._interrupted and self._task.uncancel() <= self._cancelled_before
        await self._held.release()
        if ours and isinstance(error, asyncio.CancelledError):
            self._held.check()


class Locks:
    """Named locks for this pod."""

    def __init__(
        self,
        taker: Taker,
        config: LockConfig,
        telemetry: Telemetry,
        errands: Errands,
        nodes: Sequence[Redis] = (),
    ) -> None:
        self._taker = taker
        self._config = config
        self._telemetry = telemetry
        self._errands = errands
        self._nodes = nodes
        self._held: set[Held] = set()
        self._look_s = min(_LOOK_MS, config.lock_ms / 30) / 1000
        self._looking = False

    async def acquire(self, tenant: str, name: str, token: str, wait_s: float, lifetime_s: float | None = None) -> Held:
        """Wait for a lock, at most `wait_s` (0: do not wait), and hold it until `Held.release`.

        `token` is at least 128 bits that nobody else has, for one hold: who asks with the token of the holder is the
        holder. Cancelling leaves the line. Raises `LockTimeout`, `StoreUnavailable`.
        """
        if len(token) < _TOKEN_LENGTH_MIN:
            raise ValueError(f"a token has at least {_TOKEN_LENGTH_MIN} characters of base62, or more of fewer digits")
        config = self._config if lifetime_s is None else replace(self._config, lifetime_s=lifetime_s)
        lock = LockKeys(tenant, name)
        began_ms = config.clock_ms()
        outcome = "failed"
        try:
            tenure = await self._taker.take(lock, token, wait_s)
            outcome = "held"
        except LockTimeout:
            outcome = "timeout"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._telemetry.lock_wait_seconds.labels(outcome).observe((config.clock_ms() - began_ms) / 1000)
        held = Held(self._taker, lock, tenure, config, self._telemetry)
        self._held.add(held)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(self._look_s, self._look)
        return held

    def _look(self) -> None:
        """One timer for all locks of the pod; none while it holds none."""
        self._held = {held for held in self._held if not held.over}
        self._looking = bool(self._held)
        if self._looking:
            now_ms = self._config.clock_ms()
            for held in self._held:
                held.look(now_ms)
            asyncio.get_running_loop().call_later(self._look_s, self._look)

    def hold(self, tenant: str, name: str, token: str, wait_s: float, lifetime_s: float | None = None) -> Holding:
        """Hold a lock around a block: `async with locks.hold(...) as held`. When it is lost the block is cancelled, and
        `LockLost` is raised in its place. Otherwise as `acquire`.
        """
        return Holding(self.acquire(tenant, name, token, wait_s, lifetime_s))

    async def aclose(self) -> None:
        """See releases through, then close the connections to lock nodes. What is still held runs out by itself."""
        self._held.clear()
        await self._errands.aclose(_CLOSE_S)
        for node in self._nodes:
            await node.aclose()


async def open_locks(
    urls: Sequence[str], redis: Redis, notices: Notices, config: LockConfig, telemetry: Telemetry
) -> Locks:
    """Locks on the state Redis, or, where `urls` names any, on a majority of those. Raises `SettingsError`.

    A node that is not there is no reason not to start: a majority may be.
    """
    errands = Errands()
    if not urls:
        return Locks(Line(redis, notices, config, errands), config, telemetry, errands)
    for url in urls:
        check_url(url, "AGENTRT_LOCK_REDIS_URLS")
    nodes = [Redis(RedisOptions(url, f"agentrt-locks-{config.pod}", resend_budget_s=1.0)) for url in urls]
    await asyncio.gather(*(node.start() for node in nodes))
    config = replace(config, keep_s=_KEEP_ON_QUORUM_S)
    return Locks(Quorum(nodes, config, errands), config, telemetry, errands, nodes)
