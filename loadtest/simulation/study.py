"""What the model says of deployments that do not fit on this machine."""

from __future__ import annotations

from dataclasses import replace

from loadtest.figures import Plot
from loadtest.simulation.autoscaler import Autoscaler, Rules
from loadtest.simulation.engine import Simulator
from loadtest.simulation.system import Layout, System, Times

__all__ = ["autoscaling", "latencies", "throughput"]

_TURNS = 6_000
"""Simulated for a point: enough for a p99, and a second of Python."""


def _run(layout: Layout, times: Times, rate: float) -> tuple[System, float]:
    """An open loop at that rate, to the last turn's end; and how many turns a second were carried."""
    seconds = max(_TURNS / rate, times.model)
    simulator = Simulator(seed=3)
    system = System(simulator, layout, times)
    system.open_loop(lambda _: rate, seconds)
    simulator.run(float("inf"))
    return system, len(system.seen.latencies_s) / (simulator.now - times.model)


def throughput(times: Times, shards: tuple[int, ...], pods: tuple[int, ...], slots: int) -> Plot:
    """Turns/s that are carried when 95 % of what the scarcest part allows come, by pods and shards."""
    series = {}
    for count in shards:
        points = []
        for number in pods:
            most = capacity(times, number, count, slots)
            _, carried = _run(Layout(number, slots, count, balance="least"), times, most * 0.95)
            points.append((float(number), carried))
        series[f"{count} shard{'s' * (count > 1)}"] = points
    return Plot("capacity-throughput", "Turns/s by pods and Redis shards", "pods", "turns/s", series, log="xy")


def capacity(times: Times, pods: int, shards: int, slots: int) -> float:
    """Turns/s that no part can exceed: pods' cores, slots, the shards, and the queue's shard with its leases."""
    return min(
        pods / times.pod_cpu,
        pods * slots / (times.model + times.pod_cpu + 2 * times.hop + times.redis_cpu),
        shards / (times.redis_cpu + times.lease_redis / shards),
        1 / (times.lease_redis + times.redis_cpu / shards),
    )


def latencies(times: Times, pods: int, slots: int) -> Plot:
    """What is added to the model's own time, by how busy the pods are and how messages are spread over them."""
    series = {}
    most = capacity(times, pods, pods, slots)
    for balance in ("random", "round", "least"):
        points = []
        for load in (0.3, 0.5, 0.7, 0.8, 0.9):
            system, _ = _run(Layout(pods, slots, pods, balance=balance), times, most * load)
            points.append((load * 100, (system.seen.percentile(0.99) - times.model) * 1000))
        series[{"round": "round robin", "least": "better of two"}.get(balance, balance)] = points
    title = f"Added to the model's time, p99, {pods} pods"
    return Plot("capacity-latency", title, "load, % of what the pods can do", "ms", series)


def autoscaling(times: Times, slots: int, low: float, high: float, rules: Rules) -> tuple[Plot, dict[str, float]]:
    """A spike from `low` to `high` turns/s for five minutes; the figures are seconds, pods and turns."""
    spike_s, until_s = (60.0, 360.0), 960.0
    simulator = Simulator(seed=5)
    slower = replace(times, variation=0.0)  # a second's CPU of some thousand turns hardly varies
    system = System(simulator, Layout(rules.pods_min, slots, 8, balance="least"), slower)
    scaler = Autoscaler(simulator, system, rules, slots, until_s)
    scaler.run()
    system.open_loop(lambda now: high if spike_s[0] < now < spike_s[1] else low, until_s)
    simulator.run(until_s)
    needed = high * (times.model + times.pod_cpu) / slots
    enough = next((when for when, pods, _ in scaler.history if pods >= needed), until_s)
    empty = next((when for when, waiting in scaler.queue if when > enough and waiting == 0), until_s)
    figures = {
        "seconds until there are enough pods": enough - spike_s[0],
        "seconds until nobody waits": empty - spike_s[0],
        "longest wait in the queue, s": max(system.seen.waits_s),
        "most that waited": float(max(waiting for _, waiting in scaler.queue)),
        "most pods": float(max(pods for _, pods, _ in scaler.history)),
        "pods ten minutes behind the spike": float(scaler.history[-1][1]),
    }
    series = {
        "pods": [(when, float(pods)) for when, pods, _ in scaler.history],
        "wished for": [(when, float(wish)) for when, _, wish in scaler.history],
        "waiting runs / 10": [(when, waiting / 10) for when, waiting in scaler.queue],
    }
    title = f"A spike from {low:.0f} to {high:.0f} turns/s, {slots} slots a pod"
    return Plot("capacity-autoscaling", title, "seconds", "", series), figures
