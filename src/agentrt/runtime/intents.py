"""The intents of a step's calls: the locks that stand in the journal, and the task that moves their deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agentrt.agent import Effect
from agentrt.errors import AgentrtError, NotAcknowledged, StoreUnavailable
from agentrt.runtime.calls import Call
from agentrt.runtime.clock import boottime_ms
from agentrt.runtime.insist import insist
from agentrt.store.journal import Journal
from agentrt.store.ownership import Owned

__all__ = ["Intents"]

_MARGIN_MS = 2_000
"""A lock counts as lost this long before its deadline (a tenth of it for short ones): what is sent after that may
overlap with another pod."""
_PAUSE_S = 0.2


class Intents:
    """One deadline, on the pod's own clock, holds for all calls of the step that are intended."""

    def __init__(self, journal: Journal, owned: Owned, lock_ms: int, lost: Callable[[AgentrtError], None]) -> None:
        self._journal = journal
        self._owned = owned
        self._lock_ms = lock_ms
        self._lost = lost
        self._calls: list[Call] = []
        self._writing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self.deadline_ms = 0.0

    @property
    def left_s(self) -> float:
        """How long what runs may go on running."""
        return (self.deadline_ms - min(_MARGIN_MS, self._lock_ms / 10) - boottime_ms()) / 1000

    def planned(self, calls: Sequence[Call], sent_at_ms: float) -> None:
        """The plan, sent at `sent_at_ms`, made these calls `intended`."""
        if calls:
            self._add(calls)
            self._held_since(sent_at_ms)

    async def take(self, calls: Sequence[Call] = ()) -> None:
        """Take the locks of `calls`, and move those that are held. Raises `OwnershipLost`, `StoreUnavailable`, and
        `NotAcknowledged`, with the intents taken back, where replicas must know of a call and do not.
        """
        acknowledge = any(call.planned.effect == Effect.AT_MOST_ONCE for call in calls)
        async with self._writing:
            held = [call for call in self._calls if call not in calls]
            sent_at_ms = boottime_ms()
            keys = [call.planned.key for call in (*held, *calls)]
            try:
                await self._journal.intend(self._owned, keys, acknowledge=acknowledge)
            except NotAcknowledged:
                await self.withdraw(calls)
                raise
            self._add([call for call in calls if call not in self._calls])
            self._held_since(sent_at_ms)

    async def withdraw(self, calls: Sequence[Call]) -> None:
        """These calls are not made by this owner: whoever comes next finds them planned, nothing more."""
        for call in calls:
            self.drop(call)
            call.intended = False
        await insist(lambda: self._journal.unintend(self._owned, [call.planned.key for call in calls]))

    def drop(self, call: Call) -> None:
        """This call's lock is not moved any more: it has an outcome, or its lock shall run out."""
        if call in self._calls:
            self._calls.remove(call)

    def end(self) -> None:
        """Move nothing any more."""
        self._calls.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    def _add(self, calls: Sequence[Call]) -> None:
        self._calls += calls
        for call in calls:
            call.intended = True

    def _held_since(self, sent_at_ms: float) -> None:
        drift_ms = self._lock_ms * 0.01 + 2
        self.deadline_ms = sent_at_ms + self._lock_ms - drift_ms
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """Move the deadline every third of it, also while the turn waits for something else."""
        try:
            while True:
                renew_at_ms = self.deadline_ms - self._lock_ms * 2 / 3
                await asyncio.sleep(max(0.0, renew_at_ms - boottime_ms()) / 1000)
                await self._renew()
        except AgentrtError as error:
            self._lost(error)

    async def _renew(self) -> None:
        """Raises `StoreUnavailable` when the deadline could not be moved in time, `OwnershipLost`."""
        while (left_s := self.left_s) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await self.take()
            except TimeoutError:
                break
            except StoreUnavailable:
                await asyncio.sleep(min(_PAUSE_S, max(0.0, self.left_s)))
        raise StoreUnavailable("the locks of running calls could not be renewed in time")
