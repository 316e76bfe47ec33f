"""How long a named lock is one's own, and what whoever hands locks out must be able to do.

Exclusion holds only for `validity = TTL - elapsed - (1 % of the TTL + 2 ms)`, counted from before the script was sent,
on a clock of this pod that goes on while the machine sleeps. Redis' clock decides for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from agentrt.clock import boottime_ms
from agentrt.store.keys import LockKeys

__all__ = ["LockConfig", "Taker", "Tenure"]

_MARGIN_MS = 2_000


@dataclass(frozen=True)
class LockConfig:
    """Times and bounds of named locks.

    `line_max`: who may wait for one lock; `lifetime_s`: a lock that is held longer is renewed no more; `keep_s`: a key
    that nobody touches goes after this long, 0 for the least that is right; `clock_ms` must count suspension.
    """

    pod: str
    lock_ms: int = 30_000
    line_max: int = 128
    lifetime_s: float = 600.0
    keep_s: int = 0
    clock_ms: Callable[[], float] = boottime_ms

    @cached_property
    def ttl_s(self) -> int:
        """The key's TTL: the lock must have run out long before it, and so must what was handed on."""
        return max(60, math.ceil(self.lock_ms * 2 / 1000), self.keep_s)

    @cached_property
    def margin_ms(self) -> float:
        """A lock counts as lost this long before its deadline, since what is sent later may overlap: 2 s of 30."""
        return min(_MARGIN_MS, self.lock_ms / 15)

    def deadline_ms(self, asked_ms: float) -> float:
        """Until when a lock is ours that was asked for, or renewed, at `asked_ms`."""
        return asked_ms + self.lock_ms * 0.99 - 2


class Tenure(NamedTuple):
    """A lock that was had: by which token, under which fence, until when on this pod's clock."""

    token: str
    fence: int
    deadline_ms: float


class Taker(Protocol):
    """Takes, renews and gives back named locks: `line.Line` on one Redis, `quorum.Quorum` on several."""

    async def take(self, lock: LockKeys, token: str, wait_s: float) -> Tenure:
        """Wait for the lock, at most `wait_s`. When it fails or is cancelled nothing stays behind in Redis.

        Raises `LockTimeout`, `StoreUnavailable`.
        """
        ...

    async def renew(self, lock: LockKeys, token: str) -> float | None:
        """The new deadline; None: the lock is not ours any more. Raises `StoreError` when nobody can say."""
        ...

    async def release(self, lock: LockKeys, token: str) -> None:
        """Give the lock back, also if the caller is cancelled here; what cannot be sent runs out by itself."""
        ...
