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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer

from loadtest import report
from loadtest.driver import ROOT, Driver
from loadtest.measure import Cost, Shape, measure
from loadtest.servers import LOAD_CORE, SERVER_CORE, AgentrtPod, FloorProcess, Server, on_core

HISTORIES = (10, 100, 1_000)
CONCURRENCIES = (1, 16)
EQUAL_WINDOW = 10
"""Items in the window where histories are compared: the shortest fills it too, so all of them read the same."""
_DELAY_S = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    turns: dict[int, int]
    """Turns in a slice, by concurrency."""
    delayed_turns: int


FULL = Plan(rounds=9, turns={1: 400, 16: 1_600}, delayed_turns=24)
QUICK = Plan(rounds=3, turns={1: 100, 16: 800}, delayed_turns=8)


@dataclass(slots=True)
class Bench:
    """The processes of a run, and the slices run on them."""

    redis: RedisServer
    driver: Driver
    plan: Plan
    on_slice: Callable[[str], None]

    def slice(self, server: Server, concurrency: int, history: int) -> Cost:
        self.on_slice(f"{server.name}, {concurrency} at once, {history} items")
        shape = Shape(concurrency, self.plan.turns[concurrency], history)
        with self.redis.client() as client:
            return measure(server, self.driver, client, self.redis.pid, shape)

    def alternate(self, servers: Sequence[Server], concurrency: int, history: int) -> list[list[Cost]]:
        """`rounds` slices of each server in turn; of each round one cost per server."""
        return [[self.slice(server, concurrency, history) for server in servers] for _ in range(self.plan.rounds)]

    def flatness(self, pod: Server) -> list[list[Cost]]:
        """`rounds` slices of each history in turn on one pod; of each round one cost per history."""
        return [[self.slice(pod, 16, history) for history in HISTORIES] for _ in range(self.plan.rounds)]

    def warm_up(self, servers: Sequence[Server]) -> None:
        for server in servers:
            for concurrency in CONCURRENCIES:
                self.slice(server, concurrency, 100)

    def waits(self, start: Callable[[str], Server]) -> float:
        """How often a turn waits for Redis, one wait after the other.

        Every reply of Redis is held back for a while by a proxy, and the turn gets longer by that time for each wait.
        A pause after each answer lets pass what the server sends and does not wait for.
        """

        def measured(proxy: ByteProxy) -> float:
            server = start(proxy.url)
            try:
                p50 = []
                for delay_s in (0.0, _DELAY_S):
                    proxy.delay_s = delay_s
                    shape = Shape(1, self.plan.delayed_turns, 10, pause_s=3 * _DELAY_S)
                    with self.redis.client() as client:
                        p50.append(measure(server, self.driver, client, self.redis.pid, shape)["p50_us"])
                return (p50[1] - p50[0]) / (_DELAY_S * 1e6)
            finally:
                server.stop()

        async def through_proxy() -> float:
            async with ByteProxy(self.redis.port) as proxy:
                return await asyncio.to_thread(measured, proxy)

        self.on_slice("waits in a turn")
        return asyncio.run(through_proxy())


@contextmanager
def _bench(plan: Plan, on_slice: Callable[[str], None]) -> Iterator[Bench]:
    with on_core(LOAD_CORE):
        redis = RedisServer()
        redis.start()
        try:
            driver = Driver()
            try:
                yield Bench(redis, driver, plan, on_slice)
            finally:
                driver.close()
        finally:
            redis.stop()


def _floor(bench: Bench, url: str | None = None) -> FloorProcess:
    with on_core(SERVER_CORE):
        return FloorProcess(url or bench.redis.url, bench.redis.client())


def _pod(bench: Bench, url: str | None = None, window: int | None = None) -> AgentrtPod:
    with on_core(SERVER_CORE):
        return AgentrtPod(url or bench.redis.url, window=window)


def run(plan: Plan, on_slice: Callable[[str], None]) -> report.Results:
    """Everything, in order."""
    started = time.monotonic()
    with _bench(plan, on_slice) as bench, ExitStack() as stack:
        waits = {
            "floor": bench.waits(lambda url: _floor(bench, url)),
            "agentrt": bench.waits(lambda url: _pod(bench, url)),
        }
        floor, pod, flat = _floor(bench), _pod(bench), _pod(bench, window=EQUAL_WINDOW)
        for server in (floor, pod, flat):
            stack.callback(server.stop)
        bench.warm_up((floor, pod, flat))
        slices = {
            (concurrency, history): bench.alternate((floor, pod), concurrency, history)
            for concurrency in CONCURRENCIES
            for history in HISTORIES
        }
        with bench.redis.client() as client:
            version = str(client.info("server")["redis_version"])
        flatness = bench.flatness(flat)
        seconds = time.monotonic() - started
        return report.Results(slices, HISTORIES, flatness, EQUAL_WINDOW, waits, version, plan.rounds, seconds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="What a safe turn costs.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices: 40 s instead of some minutes")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks.md")
    args = parser.parse_args()
    shown = sys.stderr.isatty()

    def on_slice(what: str) -> None:
        if shown:
            print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)

    results = run(QUICK if args.quick else FULL, on_slice)
    on_slice("")
    text = report.render(results)
    print(text)
    if args.write:
        command = "make bench" if not args.quick else ".venv/bin/python -m loadtest.bench --quick"
        (ROOT / "docs" / "benchmarks.md").write_text(report.page(results, text, command), encoding="utf-8")


if __name__ == "__main__":
    main()
