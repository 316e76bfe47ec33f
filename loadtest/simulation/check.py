"""The simulation against the real runs of `loadtest.scaling`: what is predicted elsewhere is worth as much as this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.simulation.engine import Simulator
from loadtest.simulation.system import Layout, System, Times

__all__ = ["Compared", "compare", "times_of"]

_SECONDS = 8.0
_CALIBRATED = (1, 2)
"""Pods and connections of the one run that the hop is taken from; all others are predicted."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One real run and its prediction: turns/s, p50 and p95 in ms."""

    pods: int
    connections: int
    real: tuple[float, float, float]
    predicted: tuple[float, float, float]
    calibrated: bool


def times_of(scaling: Mapping[str, float], shards: Mapping[str, float]) -> tuple[Times, float]:
    """Service times of the real runs, in seconds, and the share of its core that the pods got.

    With models that take no time the pods want their core all the time: what they got of it is what they used. On a
    machine of its own that is nearly all; others at work beside it make every second of CPU last longer.
    """
    busy_us = scaling["busy_1_cpu_us"]
    share = min(1.0, scaling["busy_1_turns_s"] * busy_us / 1e6)
    direct_us = scaling["slots_1_2_cpu_us"]
    queued_us = max(0.0, scaling["slots_1_32_cpu_us"] - direct_us)
    redis_us = scaling["slots_1_2_redis_cpu_us"]
    model_s = scaling["model_ms"] / 1000
    # Both halves of CPU and Redis' time are part of a quiet turn's latency; what is left of it is two hops.
    rest_s = scaling["slots_1_2_p50_us"] / 1e6 - model_s - (direct_us + redis_us) / 1e6
    times = Times(
        pod_cpu=direct_us / share / 1e6,
        redis_cpu=redis_us / 1e6,
        hop=max(0.0, rest_s / 2),
        model=model_s,
        queue_cpu=queued_us / share / 1e6,
        queue_redis=shards["queue_redis_us"] / 1e6,
        lease_redis=shards["lease_redis_us"] / 1e6,
    )
    return times, share


def compare(scaling: Mapping[str, float], shards: Mapping[str, float]) -> list[Compared]:
    """Every real run, predicted. All pods share one core, as they did."""
    times, _ = times_of(scaling, shards)
    runs = sorted({tuple(int(n) for n in name.split("_")[1:3]) for name in scaling if name.startswith("slots_")})
    found = []
    for pods, connections in runs:
        simulator = Simulator(seed=11)
        system = System(simulator, Layout(pods, int(scaling["slots"]), pods_per_core=pods), times)
        system.seen.since = _SECONDS / 10
        system.closed_loop(connections, _SECONDS)
        simulator.run(_SECONDS)
        seen = system.seen
        rate = len(seen.latencies_s) / (_SECONDS * 0.9)
        name = f"slots_{pods}_{connections}"
        real = (scaling[f"{name}_turns_s"], scaling[f"{name}_p50_us"] / 1000, scaling[f"{name}_p95_us"] / 1000)
        predicted = (rate, seen.percentile(0.5) * 1000, seen.percentile(0.95) * 1000)
        found.append(Compared(pods, connections, real, predicted, (pods, connections) == _CALIBRATED))
    return found
