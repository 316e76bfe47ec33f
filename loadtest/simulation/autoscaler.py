"""A HorizontalPodAutoscaler over the chart's signals, in simulated time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.simulation.engine import Simulator
from loadtest.simulation.system import System

__all__ = ["Autoscaler", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """As the chart's values have them (helm/agentrt/values.yaml): targets are averages a pod."""

    pods_min: int = 2
    pods_max: int = 200
    queue_depth: float = 5.0
    queue_age_s: float = 10.0
    occupancy: float = 0.7
    """Share of a pod's slots."""
    period_s: float = 15.0
    scrape_s: float = 15.0
    """How old what it sees may be, at most; on average half of it."""
    start_s: float = 10.0
    """From the wish for a pod until it serves."""
    up_percent: float = 100.0
    up_pods: int = 4
    down_percent: float = 20.0
    down_pods: int = 1
    down_after_s: float = 300.0
    tolerance: float = 0.1


@dataclass(slots=True)
class Autoscaler:
    """`run` looks every period until `until_s`; `history` is (time, pods that serve, pods wished for)."""

    simulator: Simulator
    system: System
    rules: Rules
    slots: int
    until_s: float
    history: list[tuple[float, int, int]] = field(default_factory=list)
    queue: list[tuple[float, int]] = field(default_factory=list)
    _starting: int = 0
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _down_at: float = -math.inf
    _seen: tuple[int, float, int] = (0, 0.0, 0)

    def run(self) -> None:
        self._scrape()
        self._look()

    def _scrape(self) -> None:
        queue, now = self.system.queue, self.simulator.now
        oldest_s = now - queue[0].queued_at if queue else 0.0
        in_flight = sum(self.slots - pod.free for pod in self.system.pods)
        self._seen = (len(queue), oldest_s, in_flight)
        if now < self.until_s:
            self.simulator.after(self.rules.scrape_s, self._scrape)

    def _look(self) -> None:
        rules, now = self.rules, self.simulator.now
        pods = len(self.system.pods) + self._starting
        wish = wished(rules, pods, self.slots, *self._seen)
        self._wishes = [one for one in self._wishes if one[0] > now - rules.down_after_s] + [(now, wish)]
        if wish > pods:
            most = pods + max(math.ceil(pods * rules.up_percent / 100), rules.up_pods)
            for _ in range(min(wish, most) - pods):
                self._starting += 1
                self.simulator.after(rules.start_s, self._ready)
        elif wish < pods and not self._starting:
            self._down(max(one for _, one in self._wishes), now)
        self.history.append((now, len(self.system.pods), wish))
        self.queue.append((now, len(self.system.queue)))
        if now < self.until_s:
            self.simulator.after(rules.period_s, self._look)

    def _down(self, wish: int, now: float) -> None:
        """The highest wish of the last minutes counts; and the slower of the two limits, once a minute."""
        pods = len(self.system.pods)
        if wish >= pods or now < self._down_at + 60:
            return
        step = min(max(1, math.floor(pods * self.rules.down_percent / 100)), self.rules.down_pods)
        for _ in range(min(step, pods - wish)):
            self.system.remove_pod()
        self._down_at = now

    def _ready(self) -> None:
        self._starting -= 1
        self.system.add_pod()


def wished(rules: Rules, pods: int, slots: int, depth: int, oldest_s: float, in_flight: int) -> int:
    """Pods by the signal that wants most, as the HPA reckons averages. Pure."""
    wishes: Sequence[float] = (
        depth / rules.queue_depth,
        oldest_s / rules.queue_age_s,
        in_flight / (rules.occupancy * slots),
    )
    most = max(wishes)
    if abs(most / pods - 1) <= rules.tolerance:
        return pods
    return min(rules.pods_max, max(rules.pods_min, math.ceil(most)))
