"""The events of a run while it goes on: numbering, batches for the event log, and the client that listens here.

What opens or closes an item is logged before it is sent; deltas may run ahead of the log, by at most `AHEAD_MAX`
events. A run that ends before anything of it was shown needs no log: its events follow from its result.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from agentrt.errors import AgentrtError, StoreUnavailable
from agentrt.store.journal import Batch, Journal
from agentrt.store.ownership import Owned

__all__ = ["AHEAD_MAX", "Frame", "Listener", "RunLog"]

AHEAD_MAX = 512
"""Recovery numbers its events from the last logged one + AHEAD_MAX + 1, so no number is ever used twice."""
_FLUSH_S = 0.05

Frame = tuple[int, str, bytes]
"""An event's number, its type, and its JSON."""

Listener = Callable[[Frame], None]
"""Gets each event, in order."""


class _Event:
    """A numbered event; encoded when somebody needs the bytes."""

    __slots__ = ("_encoded", "delta", "fields", "kind", "number")

    def __init__(self, number: int, kind: str, fields: dict[str, Any]) -> None:
        self.number = number
        self.kind = kind
        self.delta = kind.endswith(".delta")
        self.fields = fields
        self._encoded = b""

    @property
    def frame(self) -> bytes:
        if not self._encoded:
            fields = {"type": self.kind, "sequence_number": self.number, **self.fields}
            self._encoded = orjson.dumps(fields, default=_called)
        return self._encoded


def _called(value: Callable[[], Any]) -> Any:
    """What a value is that was left to be worked out when it is needed."""
    return value()


class RunLog:
    """The event log of one run on the pod that owns it."""

    def __init__(self, journal: Journal, owned: Owned, *, logged: int = -1, listener: Listener | None = None) -> None:
        self._journal = journal
        self._owned = owned
        self._logged = logged
        self._next = 0 if logged < 0 else logged + AHEAD_MAX + 1
        self._listener = listener
        self._unlogged: deque[_Event] = deque()
        self._undelivered: deque[_Event] = deque()
        self._timer: asyncio.Handle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._written = logged >= 0
        """Whether a write of the log was ever begun: then the rest must follow, or the log would have no end."""
        self._closed = False
        self.failure: AgentrtError | None = None
        self.cancel_asked = ""
        """How somebody asked for the end of the run (see `journal.asked`)."""
        self.first_delta_at: float | None = None
        """When the first piece of output came, by `time.perf_counter`."""

    @property
    def shown(self) -> bool:
        """Whether anybody may have seen an event of this run."""
        return self._listener is not None or self._written

    def add(self, kind: str, fields: dict[str, Any]) -> None:
        """Append an event. A value that is callable is called when the event is encoded."""
        event = _Event(self._next, kind, fields)
        self._next += 1
        if event.delta and self.first_delta_at is None:
            self.first_delta_at = time.perf_counter()
        self._unlogged.append(event)
        if self._listener is not None:
            self._undelivered.append(event)
            self._deliver()
        if self._timer is None and self._flushing is None and not self._closed:
            self._schedule()

    @property
    def full(self) -> bool:
        """Whether `room` has something to wait for, or to raise."""
        return len(self._unlogged) >= AHEAD_MAX or self.failure is not None

    async def room(self) -> None:
        """Wait until the log is at most `AHEAD_MAX` events behind. Raises `OwnershipLost`."""
        while len(self._unlogged) >= AHEAD_MAX:
            self._raise_failure()
            self._moved.clear()
            self._flush()
            await self._moved.wait()
        self._raise_failure()

    def take_back(self) -> None:
        """Forget the last event, which nobody was told: the run goes on after all."""
        event = self._unlogged.pop()
        if self._undelivered and self._undelivered[-1] is event:
            self._undelivered.pop()
        self._next = event.number
        self._closed = False

    def batch(self) -> Batch:
        """All events that are not known to be logged, to travel with another write; `logged` says that it arrived.

        Events of a flush that is under way travel again: a reader passes over numbers it has seen.
        """
        if not self.shown or not self._unlogged:
            return Batch()
        return Batch(self._unlogged[-1].number, b"\n".join([event.frame for event in self._unlogged]))

    def logged(self, last: int) -> None:
        """Everything up to number `last` is in the log."""
        if last <= self._logged:
            return
        self._logged = last
        while self._unlogged and self._unlogged[0].number <= last:
            self._unlogged.popleft()
        self._moved.set()
        self._deliver()

    def close(self) -> None:
        """No more writes of its own: what is not logged travels with the commit, also what is on its way now."""
        self._closed = True
        self._stop_timer()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        while self._undelivered:
            event = self._undelivered[0]
            if event.number > self._logged and not event.delta:
                return
            self._undelivered.popleft()
            if self._listener is not None:
                self._listener((event.number, event.kind, event.frame))

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        blocked = bool(self._undelivered)
        self._timer = loop.call_soon(self._flush) if blocked else loop.call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._stop_timer()
        if self._flushing is None and self._unlogged and not self._closed:
            self._written = True
            self._flushing = asyncio.get_running_loop().create_task(self._emit())

    async def _emit(self) -> None:
        events = list(self._unlogged)
        batch = Batch(events[-1].number, b"\n".join([event.frame for event in events]))
        try:
            flag = await self._journal.emit(self._owned, batch)
            self.cancel_asked = self.cancel_asked or flag
        except StoreUnavailable:
            # The events stay here and travel with the next write; the turn itself decides when to give up.
            await asyncio.sleep(_FLUSH_S)
        except AgentrtError as error:
            self.failure = error
            self._moved.set()
            return
        else:
            self.logged(batch.last)
        finally:
            self._flushing = None
        if self._unlogged and self._timer is None and not self._closed:
            self._schedule()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
