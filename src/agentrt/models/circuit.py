"""What a pod has seen of one model lately, and what follows from it: a circuit breaker and a budget of retries. Pure.

    closed ──failures in a row──▶ open ──its time is over──▶ one probe ──▶ closed, or open for twice as long

A probe decides with the first thing it hears: a reply may stream for minutes, and the model answers all that time.

A provider that is down is not asked again by every run of the pod, and one that is half down is not buried under
retries: each reply pays for a tenth of one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

from agentrt.errors import ModelError, Unsupported

__all__ = ["Circuit", "State", "Ticket"]

State = Literal["closed", "half_open", "open"]
Ticket = int
"""A call that the circuit let through. What calls of an earlier state tell is old news."""

_FAILURES_MAX = 5
_OPEN_S, _OPEN_S_MAX = 2.0, 60.0
_PROBE_S = 1.0
"""How soon to look again while somebody else's probe is under way."""
_RETRIES_MAX = 10.0
_RETRIES_PER_REPLY = 0.1


class Circuit:
    """The state of one model as this pod sees it. `changed` hears of every new state."""

    def __init__(self, changed: Callable[[State], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._clock = clock
        self._state: State = "closed"
        self._failures = 0
        self._opened = 0
        self._until = 0.0
        self._ticket: Ticket = 0
        self._retries = _RETRIES_MAX

    @property
    def state(self) -> State:
        """`closed`: calls pass. `open`: none does. `half_open`: one is under way and decides."""
        return self._state

    def wait_s(self) -> float:
        """Seconds until a call may be made; 0 for now."""
        match self._state:
            case "closed":
                return 0.0
            case "half_open":
                return _PROBE_S
        return max(0.0, self._until - self._clock())

    def retry(self) -> bool:
        """Whether one more try of something that failed is within the budget, and take it out of the budget."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True

    def begin(self) -> Ticket:
        """A call begins; `wait_s` was 0. In an open circuit it is the probe."""
        if self._state == "open":
            self._enter("half_open")
        return self._ticket

    def answered(self, ticket: Ticket) -> None:
        """A reply has begun to come. Where that was the probe, others may call; its ticket stays good, so what becomes
        of the reply counts like that of any other, and until one came whole the next opening is the longer one."""
        if ticket == self._ticket and self._state == "half_open":
            self._failures = 0
            self._state = "closed"
            self._changed("closed")

    def ended(self, ticket: Ticket, error: ModelError | None) -> None:
        """A call ended. What the caller brought upon itself, a rate limit among it, shows that the provider lives."""
        if error is None:
            self._retries = min(_RETRIES_MAX, self._retries + _RETRIES_PER_REPLY)
        if isinstance(error, Unsupported):
            self.abandoned(ticket)
            return
        if ticket != self._ticket:
            return
        if error is None or error.code in {"invalid_prompt", "rate_limit_exceeded"}:
            self._failures = self._opened = 0
            if self._state != "closed":
                self._enter("closed")
            return
        self._failures += 1
        if self._state == "half_open" or self._failures >= _FAILURES_MAX:
            open_s = min(_OPEN_S_MAX, _OPEN_S * 2**self._opened) * random.uniform(0.8, 1.2)
            self._until = self._clock() + max(open_s, min(error.retry_after_s or 0.0, _OPEN_S_MAX))
            self._opened += 1
            self._enter("open")

    def abandoned(self, ticket: Ticket) -> None:
        """A call was given up by whoever made it, and tells nothing: the next one is the probe."""
        if ticket == self._ticket and self._state == "half_open":
            self._until = self._clock()
            self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._ticket += 1
        self._changed(state)
