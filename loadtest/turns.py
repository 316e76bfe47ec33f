"""What a turn costs, next to a floor without any safety: goals 1 and 2. `python -m loadtest.turns`.

Starts a Redis, a floor and pods of its own on loopback, ends them again, and touches nothing else. Floor and pod take
turns, slice by slice (ABAB...), and every ratio is the median of the ratios of neighbouring slices: what the machine
does beside us then falls on both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from statistics import median

from tests.harness.redis_server import RedisServer

from loadtest.delay import DelayedRedis
from loadtest.driver import Driver
from loadtest.figures import Goal, Plot, Section, Table, command_line, number, say
from loadtest.measure import Cost, Shape, measure
from loadtest.servers import LOAD_CORE, SERVER_CORE, AgentrtPod, FloorProcess, Server, on_core

HISTORIES = (10, 100, 1_000)
CONCURRENCIES = (1, 16)
EQUAL_WINDOW = 10
"""Items in the window where histories are compared: the shortest fills it too, so all of them read the same."""
_DELAYS_S = (0.01, 0.03)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: at most `rounds`, and no round is begun that would not end within `budget_s`."""

    rounds: int
    budget_s: float
    turns: Mapping[int, int]
    """Turns in a slice, by concurrency."""
    delayed_turns: int


FULL = Plan(rounds=9, budget_s=220, turns={1: 300, 16: 1_200}, delayed_turns=40)
QUICK = Plan(rounds=3, budget_s=36, turns={1: 60, 16: 320}, delayed_turns=16)


@dataclass(slots=True)
class Bench:
    """The processes of a run, and the slices run on them."""

    redis: RedisServer
    driver: Driver
    plan: Plan

    def slice(self, server: Server, concurrency: int, history: int) -> Cost:
        say(f"{server.name}, {concurrency} at once, {history:,} items")
        return self._measure(server, Shape(concurrency, self.plan.turns[concurrency], history))

    def _measure(self, server: Server, shape: Shape) -> Cost:
        with self.redis.client() as client:
            return measure(server, self.driver, client, self.redis.pid, shape)

    def warm_up(self, servers: Sequence[Server]) -> None:
        """A slice of each kind that nobody counts."""
        for server in servers:
            for concurrency in CONCURRENCIES:
                self.slice(server, concurrency, 100)

    def waits(self, start: Callable[[str], Server]) -> float:
        """How often a turn waits for Redis, one wait after the other.

        Every reply of Redis is made late by a shorter and by a longer time; the turn gets longer by the difference for
        each wait, and by nothing for what the server sends without waiting.
        """
        shape = Shape(1, self.plan.delayed_turns, 10)

        def measured(cable: DelayedRedis) -> float:
            with closing(start(cable.url)) as server:
                p50_us = []
                for delay_s in _DELAYS_S:
                    cable.delay_s = delay_s
                    p50_us.append(self._measure(server, shape)["p50_us"])
            return (p50_us[1] - p50_us[0]) / ((_DELAYS_S[1] - _DELAYS_S[0]) * 1e6)

        async def delayed() -> float:
            async with DelayedRedis(self.redis.port) as cable:
                return await asyncio.to_thread(measured, cable)

        say("waits in a turn")
        return asyncio.run(delayed())


@contextmanager
def _bench(plan: Plan) -> Iterator[Bench]:
    with on_core(LOAD_CORE):
        redis = RedisServer()
        redis.start()
        try:
            with closing(Driver()) as driver:
                yield Bench(redis, driver, plan)
        finally:
            redis.stop()


def _floor(bench: Bench, url: str | None = None) -> FloorProcess:
    with on_core(SERVER_CORE):
        return FloorProcess(url or bench.redis.url, bench.redis.client())


def _pod(bench: Bench, url: str | None = None, window: int | None = None) -> AgentrtPod:
    with on_core(SERVER_CORE):
        narrower = {} if window is None else {"window_items": window}
        return AgentrtPod(url or bench.redis.url, memory_jobs=0, **narrower)


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run. `slices`: by (concurrency, history) a (floor, agentrt) pair for each round; `flat`: for each round
    the costs with the shortest and the longest history, at an equal window; `waits`: by server."""

    slices: Mapping[tuple[int, int], Sequence[Sequence[Cost]]]
    flat: Sequence[Sequence[Cost]]
    waits: Mapping[str, float]
    redis_version: str

    def ratios(self, metric: str, concurrency: int, history: int) -> list[float]:
        """agentrt / floor, one for each round."""
        return [pod[metric] / floor[metric] for floor, pod in self.slices[concurrency, history]]

    def growth(self, metric: str) -> list[float]:
        """The longest history / the shortest, one for each round."""
        return [costs[-1][metric] / costs[0][metric] for costs in self.flat]

    def growth_bytes(self) -> list[float]:
        """The same, of the bytes in both directions."""
        both = [[cost["redis_bytes_in"] + cost["redis_bytes_out"] for cost in costs] for costs in self.flat]
        return [each[-1] / each[0] for each in both]

    def pod(self, metric: str, concurrency: int, history: int) -> float:
        """The median over the rounds."""
        return median(pod[metric] for _, pod in self.slices[concurrency, history])


def run(plan: Plan) -> Results:
    """Everything, in order."""
    started = time.monotonic()
    slices: dict[tuple[int, int], list[tuple[Cost, Cost]]] = {
        (concurrency, history): [] for concurrency in CONCURRENCIES for history in HISTORIES
    }
    flat: list[tuple[Cost, Cost]] = []
    with _bench(plan) as bench, ExitStack() as stack:
        waits = {
            "floor": bench.waits(lambda url: _floor(bench, url)),
            "agentrt": bench.waits(lambda url: _pod(bench, url)),
        }
        floor = stack.enter_context(closing(_floor(bench)))
        pod = stack.enter_context(closing(_pod(bench)))
        narrow = stack.enter_context(closing(_pod(bench, window=EQUAL_WINDOW)))
        bench.warm_up((floor, pod, narrow))
        begun = time.monotonic()
        for done in range(1, plan.rounds + 1):
            for (concurrency, history), pairs in slices.items():
                pairs.append((bench.slice(floor, concurrency, history), bench.slice(pod, concurrency, history)))
            flat.append((bench.slice(narrow, 16, HISTORIES[0]), bench.slice(narrow, 16, HISTORIES[-1])))
            now = time.monotonic()
            if now + (now - begun) / done > started + plan.budget_s:
                break
        return Results(slices, flat, waits, bench.redis.version)


# --- the section of the page ------------------------------------------------------------------------------------------

_METRICS = {
    "cpu_us": "CPU of the server, µs",
    "redis_cpu_us": "CPU of Redis, µs",
    "p50_us": "latency p50, µs",
    "p99_us": "latency p99, µs",
    "turns_s": "turns/s",
    "redis_reads": "reads by Redis",
    "redis_bytes_in": "bytes into Redis",
    "redis_bytes_out": "bytes out of Redis",
}
_POD_METRICS = {"units": "units sent by the pod", "writes": "writes by the pod"}
_HEADLINE = 100
"""The history of goal 1: it fills the window."""
_TEXT = """A turn is one `POST /v1/responses` with an `Idempotency-Key` in an existing conversation, answered by
the demo agent `echo`, whose model takes no time: what is measured is the runtime alone. Items are about 300
bytes; pod and floor read the newest 50.

Waits are counted by making every reply of Redis late by 10 and by 30 ms: a turn gets longer by the difference
for each wait. Reads by Redis may be more: the lease is ended by a write that nobody waits for. Cells are
agentrt / floor = ratio. Jobs of the memory are left to other pods: a conversation that begins with 1,000 items has them
summed up behind its first turns, twenty at a time."""
_PYTHON = (
    "a response of 31 fields and its numbered events are built, stored and sent for every turn where the floor sends "
    "one line; the profile below shows the parts, docs/decisions.md what was taken out already"
)
_LUA = (
    "begin and commit write some twenty fields of session, run and lease, and check the fence; the floor writes two. A "
    "third of it are the commands themselves (INFO commandstats), the rest is Lua: the operands of four scripts, and "
    "28 calls out of them at one to six µs"
)


def section(results: Results) -> Section:
    """Goals 1 and 2."""
    goals = [
        _goal(1, "CPU, 16 at once, agentrt / floor", 0.45, results.ratios("cpu_us", 16, _HEADLINE), _PYTHON),
        _goal(1, "CPU of Redis, 16 at once, agentrt / floor", 1.1, results.ratios("redis_cpu_us", 16, _HEADLINE), _LUA),
        Goal(1, "waits for Redis in a turn, one after the other", "equal", 2, [results.waits["agentrt"]]),
        _goal(1, "latency p50, one at a time, agentrt / floor", 1.0, results.ratios("p50_us", 1, _HEADLINE), "as CPU"),
        _goal(2, "CPU, longest / shortest history, equal window", 1.2, results.growth("cpu_us")),
        _goal(2, "bytes, longest / shortest history, equal window", 1.1, results.growth_bytes()),
    ]
    tables = [_costs(results, concurrency) for concurrency in sorted(CONCURRENCIES, reverse=True)]
    figures = {
        f"{metric}_{concurrency}_{history}": results.pod(metric, concurrency, history)
        for concurrency, history in results.slices
        for metric in _METRICS
    }
    figures |= {
        f"floor_cpu_us_16_{history}": median(floor["cpu_us"] for floor, _ in results.slices[16, history])
        for history in HISTORIES
    }
    tables.append(_flat(results))
    title, plots = "A turn (goals 1 and 2)", _plots(results)
    return Section("turns", title, _TEXT, goals, tables, plots, figures, redis_version=results.redis_version)


def _goal(number: int, what: str, wanted: float, ratios: Sequence[float], why: str = "") -> Goal:
    return Goal(number, what, "most", wanted, ratios, why)


def _columns() -> list[str]:
    return [f"{history:,} items" for history in HISTORIES]


def _costs(results: Results, concurrency: int) -> Table:
    rows = []
    for metric, what in _METRICS.items():
        rows.append([what, *(_cell(results, metric, concurrency, history) for history in HISTORIES)])
    for metric, what in _POD_METRICS.items():
        rows.append([what, *(number(results.pod(metric, concurrency, history)) for history in HISTORIES)])
    return Table([f"per turn, {concurrency} at once", *_columns()], rows)


def _cell(results: Results, metric: str, concurrency: int, history: int) -> str:
    pairs = results.slices[concurrency, history]
    floor, pod = (median(pair[n][metric] for pair in pairs) for n in (0, 1))
    return f"{number(pod)} / {number(floor)} = {median(results.ratios(metric, concurrency, history)):.2f}"


def _flat(results: Results) -> Table:
    first, last = HISTORIES[0], HISTORIES[-1]
    head = f"agentrt per turn, 16 at once, window of {EQUAL_WINDOW}"
    rows = []
    for metric, what in _METRICS.items():
        values = [median(costs[n][metric] for costs in results.flat) for n in (0, 1)]
        rows.append([what, *(number(value) for value in values), f"{median(results.growth(metric)):.2f}"])
    return Table([head, f"{first:,} items", f"{last:,} items", f"{last:,} / {first:,}"], rows)


def _plots(results: Results) -> list[Plot]:
    names = ("floor", "agentrt")
    series = {
        name: [
            (float(group), median(pair[n]["cpu_us"] for pair in results.slices[16, history]))
            for group, history in enumerate(HISTORIES)
        ]
        for n, name in enumerate(names)
    }
    return [Plot("turns-cpu", "CPU of a turn, 16 at once", "history", "µs", series, "bars", _columns())]


def measured(quick: bool) -> Section:
    """Goals 1 and 2, measured."""
    return section(run(QUICK if quick else FULL))


if __name__ == "__main__":
    command_line("turns", "What a safe turn costs.", measured)
