"""Simulated time, and stations where work waits for a server. Times in seconds."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

__all__ = ["Simulator", "Station", "spread"]

Then = Callable[[], None]


class Simulator:
    """Calls what is due, in order of time, and of scheduling where times are equal."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self._due: list[tuple[float, int, Then]] = []
        self._number = 0

    def after(self, delay_s: float, then: Then) -> None:
        self._number += 1
        heapq.heappush(self._due, (self.now + delay_s, self._number, then))

    def run(self, until_s: float) -> None:
        """Until that time; infinity: until nothing is due any more, and `now` is when the last thing was."""
        due = self._due
        while due and due[0][0] <= until_s:
            self.now, _, then = heapq.heappop(due)
            then()
        if until_s < float("inf"):
            self.now = max(self.now, until_s)


class Station:
    """Some servers and one line before them, first come, first served. Keeps how busy it was."""

    __slots__ = ("_free", "_line", "_simulator", "busy_s", "servers")

    def __init__(self, simulator: Simulator, servers: int = 1) -> None:
        self._simulator = simulator
        self.servers = servers
        self._free = servers
        self._line: deque[tuple[float, Then]] = deque()
        self.busy_s = 0.0
        """Service given so far, over all servers; what has begun counts whole."""

    @property
    def waiting(self) -> int:
        return len(self._line)

    def serve(self, service_s: float, then: Then) -> None:
        """Wait for a server, take `service_s` of it, then go on."""
        if self._free:
            self._free -= 1
            self._begin(service_s, then)
        else:
            self._line.append((service_s, then))

    def _begin(self, service_s: float, then: Then) -> None:
        self.busy_s += service_s

        def end() -> None:
            if self._line:
                self._begin(*self._line.popleft())
            else:
                self._free += 1
            then()

        self._simulator.after(service_s, end)


def spread(chance: random.Random, mean: float, variation: float) -> float:
    """A time around `mean` with that coefficient of variation (gamma; 1: exponential, 0: always the mean)."""
    if not variation or not mean:
        return mean
    shape = 1 / variation**2
    return chance.gammavariate(shape, mean / shape)
