"""`make bench`: the cost of a safe turn, next to a floor without any safety; goals 1 and 2 of the project.

Starts a Redis, a floor and pods of its own on loopback, ends them again, and touches nothing else. Floor and pod take
turns, slice by slice (ABAB...), and every ratio is the median of the ratios of neighbouring slices: what the machine
does beside us then falls on both. Absolute numbers belong to this machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from tests.harness.redis_server import RedisServer

from loadtest.delay import DelayedRedis
from loadtest.driver import ROOT, Driver
from loadtest.measure import Cost, Shape, measure
from loadtest.report import Results, page, render
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
    on_slice: Callable[[str], None]

    def slice(self, server: Server, concurrency: int, history: int) -> Cost:
        self.on_slice(f"{server.name}, {concurrency} at once, {history:,} items")
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

        self.on_slice("waits in a turn")
        return asyncio.run(delayed())


@contextmanager
def _bench(plan: Plan, on_slice: Callable[[str], None]) -> Iterator[Bench]:
    with on_core(LOAD_CORE):
        redis = RedisServer()
        redis.start()
        try:
            with closing(Driver()) as driver:
                yield Bench(redis, driver, plan, on_slice)
        finally:
            redis.stop()


def _floor(bench: Bench, url: str | None = None) -> FloorProcess:
    with on_core(SERVER_CORE):
        return FloorProcess(url or bench.redis.url, bench.redis.client())


def _pod(bench: Bench, url: str | None = None, window: int | None = None) -> AgentrtPod:
    with on_core(SERVER_CORE):
        return AgentrtPod(url or bench.redis.url, window=window)


def run(plan: Plan, on_slice: Callable[[str], None]) -> Results:
    """Everything, in order."""
    started = time.monotonic()
    slices: dict[tuple[int, int], list[tuple[Cost, Cost]]] = {
        (concurrency, history): [] for concurrency in CONCURRENCIES for history in HISTORIES
    }
    flat: list[tuple[Cost, Cost]] = []
    with _bench(plan, on_slice) as bench, ExitStack() as stack:
        waits = {
            "floor": bench.waits(lambda url: _floor(bench, url)),
            "agentrt": bench.waits(lambda url: _pod(bench, url)),
        }
        floor = stack.enter_context(closing(_floor(bench)))
        pod = stack.enter_context(closing(_pod(bench)))
        narrow = stack.enter_context(closing(_pod(bench, window=EQUAL_WINDOW)))
        bench.warm_up((floor, pod, narrow))
        begun = time.monotonic()
        for number in range(1, plan.rounds + 1):
            for (concurrency, history), pairs in slices.items():
                pairs.append((bench.slice(floor, concurrency, history), bench.slice(pod, concurrency, history)))
            flat.append((bench.slice(narrow, 16, HISTORIES[0]), bench.slice(narrow, 16, HISTORIES[-1])))
            now = time.monotonic()
            if now + (now - begun) / number > started + plan.budget_s:
                break
        with bench.redis.client() as client:
            version = str(client.info("server")["redis_version"])
    return Results(slices, HISTORIES, flat, EQUAL_WINDOW, waits, version, time.monotonic() - started)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="What a safe turn costs.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices: 40 s, not some minutes")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks.md")
    args = parser.parse_args()
    shown = sys.stderr.isatty()

    def on_slice(what: str) -> None:
        if shown:
            print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)

    results = run(QUICK if args.quick else FULL, on_slice)
    on_slice("")
    text = render(results)
    print(text)
    if args.write:
        command = "make bench" if not args.quick else ".venv/bin/python -m loadtest.bench --quick"
        (ROOT / "docs" / "benchmarks.md").write_text(page(results, text, command), encoding="utf-8")


if __name__ == "__main__":
    main()
