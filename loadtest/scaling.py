"""What a second pod brings, and what it costs: goal 8. `python -m loadtest.scaling`.

All pods share one core, so more pods are no more CPU: what is seen is what scaling out costs a turn, and how throughput
grows where slots are the limit and not the core. The runs with slots are also what the simulation is checked against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median

from tests.harness.redis_server import RedisServer

from loadtest.driver import Driver
from loadtest.figures import Goal, Plot, Section, Table, command_line, number, say
from loadtest.measure import Cost, Shape, measure
from loadtest.servers import LOAD_CORE, SERVER_CORE, AgentrtPod, Fleet, on_core

PODS = (1, 2, 4)
SLOTS = 4
"""Of each pod where slots are the limit."""
MODEL_MS = 50
CONNECTIONS = (2, 8, 32)
_IDLE = 4_000
"""Sessions that stand by while others talk."""
_IDLE_ITEMS = 4
_TAKES_TIME = f"{MODEL_MS} 1 1 0"


@dataclass(slots=True)
class Figures:
    """A cost a round. `busy`: by pods, models that take no time; `slots`: by (pods, connections), models of 50 ms on
    pods of 4 slots; `few`, `many`: one pod without and with many idle sessions in Redis."""

    busy: dict[int, list[Cost]] = field(default_factory=lambda: {n: [] for n in PODS})
    slots: dict[tuple[int, int], list[Cost]] = field(
        default_factory=lambda: {(pods, connections): [] for pods in PODS for connections in CONNECTIONS}
    )
    few: list[Cost] = field(default_factory=list)
    many: list[Cost] = field(default_factory=list)

    def growth(self, metric: str, pods: int) -> list[float]:
        """That many pods / one, a round each."""
        return [more[metric] / one[metric] for one, more in zip(self.busy[1], self.busy[pods], strict=True)]


@dataclass(slots=True)
class _Stage:
    redis: RedisServer
    driver: Driver

    def pod(self, number: int) -> AgentrtPod:
        with on_core(SERVER_CORE):
            name = f"bench-{number}"
            return AgentrtPod(self.redis.url, name=name, agents="loadtest.paced:agents", max_runs=SLOTS)

    def cost(self, fleet: Fleet, shape: Shape) -> Cost:
        with self.redis.client() as client:
            return measure(fleet, self.driver, client, self.redis.pid, shape)


def _measure(stage: _Stage, figures: Figures, rounds: int, turns: int, seconds: float, idle: int) -> None:
    """Slots while pods come one after the other; then CPU, on one, two and four of them by turns."""
    with ExitStack() as stack:
        pods: list[AgentrtPod] = []
        for count in PODS:
            while len(pods) < count:
                pods.append(stack.enter_context(closing(stage.pod(len(pods)))))
            for _ in range(rounds):
                _slots(stage, figures, Fleet(pods), seconds)
        fleets = {count: Fleet(pods[:count]) for count in PODS}
        for _ in range(rounds):
            for count in PODS:
                say(f"{count} pods")
                figures.busy[count].append(stage.cost(fleets[count], Shape(SLOTS * count, turns * count, 100)))
            figures.few.append(stage.cost(fleets[1], Shape(SLOTS, turns, 100)))
        say("idle sessions")
        fleets[1].prefill(idle, _IDLE_ITEMS)
        for _ in range(rounds):
            figures.many.append(stage.cost(fleets[1], Shape(SLOTS, turns, 100)))


def _slots(stage: _Stage, figures: Figures, fleet: Fleet, seconds: float) -> None:
    """A closed loop of few, and of more connections than there are slots."""
    pods = len(fleet.pids)
    for connections in CONNECTIONS:
        say(f"{pods} pods of {SLOTS} slots, {connections} connections")
        rate = min(connections, pods * SLOTS) / MODEL_MS * 1000
        turns = max(connections * 4, int(rate * seconds))
        shape = Shape(connections, turns, 10, _TAKES_TIME, "paced")
        figures.slots[pods, connections].append(stage.cost(fleet, shape))


# --- the section of the page ------------------------------------------------------------------------------------------

_TEXT = f"""Pods share one core. *CPU*: 4 connections to each pod, as more pods are for more load (the fewer at once
on a pod, the fewer share its writes: goal 1 has 1 and 16); models that take no time. *Slots*:
pods that work on at most {SLOTS} runs at once, models of {MODEL_MS} ms, 2, 8 and 32 connections in a closed
loop; what finds no slot waits in the queue and is answered through it. *Idle sessions*: the same load on one
pod before and after {_IDLE:,} conversations more are in Redis."""


_WHY = (
    "both pods have one core between them, so two wait for it more often than one, each wakes for its own timers and "
    "heartbeats, and a quick slice has few turns to share that; the slices differ by more than what is missing"
)


def section(figures: Figures, redis_version: str) -> Section:
    """Goal 8."""
    crowded = CONNECTIONS[-1]
    pairs = zip(figures.slots[1, crowded], figures.slots[2, crowded], strict=True)
    throughput = [two["turns_s"] / one["turns_s"] for one, two in pairs]
    idle = list(zip(figures.few, figures.many, strict=True))
    goals = [
        Goal(8, "CPU of a turn, 2 pods / 1", "most", 1.1, figures.growth("cpu_us", 2), _WHY),
        Goal(8, f"turns/s, 2 pods / 1, {SLOTS} slots each, models of {MODEL_MS} ms", "least", 1.8, throughput, _WHY),
        Goal(8, "CPU of Redis, 2 pods / 1", "most", 1.1, figures.growth("redis_cpu_us", 2), _WHY),
        Goal(8, "bytes at Redis, 2 pods / 1", "most", 1.1, [_bytes(b) / _bytes(a) for a, b in _pairs(figures)], _WHY),
        Goal(8, f"CPU of Redis, {_IDLE:,} sessions more / before", "most", 1.1, _ratios(idle, "redis_cpu_us")),
        Goal(
            8,
            f"bytes at Redis, {_IDLE:,} sessions more / before",
            "most",
            1.1,
            [_bytes(b) / _bytes(a) for a, b in idle],
        ),
    ]
    metrics = {"cpu_us": "CPU of the pods, µs", "redis_cpu_us": "CPU of Redis, µs", "turns_s": "turns/s"}
    busy = Table(
        ("a turn, 4 at once on each pod", *(f"{pods} pod{'s' * (pods > 1)}" for pods in PODS)),
        [[what, *(number(_median(figures.busy[pods], name)) for pods in PODS)] for name, what in metrics.items()],
    )
    rows = [
        [
            f"{pods}",
            f"{connections}",
            *(number(_median(costs, name)) for name in ("turns_s", "p50_us", "p95_us", "cpu_us")),
        ]
        for (pods, connections), costs in figures.slots.items()
    ]
    slots = Table(("pods", "connections", "turns/s", "p50, µs", "p95, µs", "CPU of the pods, µs"), rows)
    return Section(
        "scaling",
        "Scaling out (goal 8)",
        _TEXT,
        goals,
        [busy, slots],
        [_plot(figures)],
        _kept(figures),
        (),
        redis_version,
    )


def _pairs(figures: Figures) -> list[tuple[Cost, Cost]]:
    return list(zip(figures.busy[1], figures.busy[2], strict=True))


def _bytes(cost: Cost) -> float:
    return cost["redis_bytes_in"] + cost["redis_bytes_out"]


def _ratios(pairs: Sequence[tuple[Cost, Cost]], metric: str) -> list[float]:
    return [b[metric] / a[metric] for a, b in pairs]


def _median(costs: Sequence[Mapping[str, float]], metric: str) -> float:
    return median(cost[metric] for cost in costs)


def _plot(figures: Figures) -> Plot:
    series = {
        f"{connections} connections": [
            (float(pods), _median(figures.slots[pods, connections], "turns_s")) for pods in PODS
        ]
        for connections in CONNECTIONS
    }
    return Plot(
        "scaling-slots",
        f"Turns/s where slots are the limit ({SLOTS} a pod, models of {MODEL_MS} ms)",
        "pods",
        "turns/s",
        series,
    )


def _kept(figures: Figures) -> dict[str, float]:
    kept = {
        f"slots_{pods}_{connections}_{name}": _median(costs, name)
        for (pods, connections), costs in figures.slots.items()
        for name in ("turns_s", "p50_us", "p95_us", "cpu_us", "redis_cpu_us")
    }
    for pods, costs in figures.busy.items():
        kept |= {f"busy_{pods}_{name}": _median(costs, name) for name in ("turns_s", "p50_us", "p95_us", "cpu_us")}
    return kept | {"slots": SLOTS, "model_ms": MODEL_MS}


def measured(quick: bool) -> Section:
    """Goal 8, measured."""
    rounds, turns, seconds = (2, 160, 1.0) if quick else (4, 800, 2.0)
    figures = Figures()
    with on_core(LOAD_CORE), RedisServer() as redis, closing(Driver()) as driver:
        _measure(_Stage(redis, driver), figures, rounds, turns, seconds, _IDLE // (4 if quick else 1))
        return section(figures, redis.version)


if __name__ == "__main__":
    command_line("scaling", "What a second pod brings.", measured)
