"""The HorizontalPodAutoscaler's algorithm (autoscaling/v2) as a simulation, driven by a rendered manifest.

As the controller has it: each metric proposes, the largest proposal wins; within a tolerance of 10 % nothing changes; a
metric that cannot be read forbids scaling in, never scaling out; then stabilization windows, then policies by period.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SYNC_S = 15
_TOLERANCE = 0.1
_NAN = -(2**63) / 1000
"""What prometheus-adapter makes of NaN on amd64, int64(NaN * 1000) thousandths; on arm64 it is 0."""


@dataclass
class Autoscaler:
    """One autoscaler and its memory. `replicas` is what it wants now."""

    spec: dict[str, Any]
    replicas: int
    _wished: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now_s: float, values: Mapping[str, float | None]) -> int:
        """One look at the metrics by name; None for one that is missing. Returns the replicas from now on."""
        proposals = [self._propose(metric, values) for metric in self.spec["metrics"]]
        known = [proposal for proposal in proposals if proposal is not None]
        wish = max(known, default=self.replicas)
        if len(known) < len(proposals):
            wish = max(wish, self.replicas)
        wish = min(max(wish, self.spec["minReplicas"]), self.spec["maxReplicas"])
        wish = self._stabilized(now_s, wish)
        wish = self._within_policies(now_s, wish)
        if wish != self.replicas:
            self._changes.append((now_s, wish - self.replicas))
            self.replicas = wish
        return wish

    def _propose(self, metric: dict[str, Any], values: Mapping[str, float | None]) -> int | None:
        if metric["type"] == "Resource":
            name, target = metric["resource"]["name"], metric["resource"]["target"]
            wanted, per_pod = float(target["averageUtilization"]), False
        else:
            name, target = metric["external"]["metric"]["name"], metric["external"]["target"]
            per_pod = target["type"] == "AverageValue"
            wanted = float(target["averageValue"] if per_pod else target["value"])
        value = values.get(name)
        if value is None:
            return None
        if math.isnan(value):
            value = _NAN
        ratio = value / (wanted * self.replicas) if per_pod else value / wanted
        if abs(ratio - 1) <= _TOLERANCE:
            return self.replicas
        return math.ceil(value / wanted) if per_pod else math.ceil(ratio * self.replicas)

    def _stabilized(self, now_s: float, wish: int) -> int:
        behavior = self.spec["behavior"]
        up_s = behavior["scaleUp"]["stabilizationWindowSeconds"]
        down_s = behavior["scaleDown"]["stabilizationWindowSeconds"]
        self._wished.append((now_s, wish))
        low = min(made for at, made in self._wished if at > now_s - up_s or at == now_s)
        high = max(made for at, made in self._wished if at > now_s - down_s or at == now_s)
        return min(max(self.replicas, low), high)

    def _within_policies(self, now_s: float, wish: int) -> int:
        if wish == self.replicas:
            return wish
        up = wish > self.replicas
        rules = self.spec["behavior"]["scaleUp" if up else "scaleDown"]
        limits = []
        for policy in rules["policies"]:
            since = now_s - policy["periodSeconds"]
            done = sum(change for at, change in self._changes if at > since and (change > 0) is up)
            start = self.replicas - done
            if policy["type"] == "Pods":
                limits.append(start + policy["value"] if up else start - policy["value"])
            elif up:
                limits.append(math.ceil(start * (1 + policy["value"] / 100)))
            else:
                limits.append(math.floor(start * (1 - policy["value"] / 100)))
        most_change = rules["selectPolicy"] == "Max"
        if up:
            return max(self.replicas, min(wish, max(limits) if most_change else min(limits)))
        return min(self.replicas, max(wish, min(limits) if most_change else max(limits)))


@dataclass
class Deployment:
    """Pods with slots, a queue before them, and runs of one length: what the metrics come from."""

    slots: int
    run_s: float
    start_s: float
    pods: list[float] = field(default_factory=list)
    """When each pod becomes ready."""
    in_flight: list[float] = field(default_factory=list)
    """When each run ends."""
    queue: list[float] = field(default_factory=list)
    """Since when each run waits."""

    def scale(self, now_s: float, replicas: int) -> None:
        """Add pods, which take a while, or take some away; their runs are handed over, so none is lost."""
        self.pods += [now_s + self.start_s] * (replicas - len(self.pods))
        del self.pods[replicas:]

    def tick(self, now_s: float, arrivals: int) -> None:
        """One second: runs end, arrive, and start where there is room."""
        self.in_flight = [end for end in self.in_flight if end > now_s]
        self.queue += [now_s] * arrivals
        room = sum(ready <= now_s for ready in self.pods) * self.slots - len(self.in_flight)
        starting, self.queue = self.queue[: max(0, room)], self.queue[max(0, room) :]
        self.in_flight += [now_s + self.run_s] * len(starting)

    def metrics(self, now_s: float) -> dict[str, float | None]:
        """As the rules of the adapter make them."""
        busy = len(self.in_flight) / (len(self.pods) * self.slots)
        return {
            "agentrt_queue_depth": float(len(self.queue)),
            "agentrt_queue_oldest_seconds": now_s - self.queue[0] if self.queue else 0.0,
            "agentrt_runs_in_flight_total": float(len(self.in_flight)),
            "cpu": 60 * busy,
        }
