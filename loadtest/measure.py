"""What one slice costs: CPU of the server's process tree and of Redis, bytes and reads at Redis, latency.

CPU comes from the processes' CPU clocks (user and system time of all threads, the ended ones too, in nanoseconds), so a
slice may be short; /proc/PID/stat counts the same in ticks of 10 ms.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import redis

from loadtest.driver import Driver, Slice
from loadtest.servers import TEXT, Server

__all__ = ["Cost", "Shape", "measure", "tree_cpu_s"]

_INFO = {
    "redis_reads": "total_reads_processed",
    "redis_bytes_in": "total_net_input_bytes",
    "redis_bytes_out": "total_net_output_bytes",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A slice: how many connections, how many turns, with conversations that begin with `history` items.

    A conversation grows by two items a turn, so each is used for a few turns only: at most a fifth of its length, or
    four turns where that is less.
    """

    concurrency: int
    turns: int
    history: int
    text: str = TEXT
    agent: str = "echo"

    @property
    def turns_each(self) -> int:
        return min(max(4, self.history // 10), max(1, self.turns // self.concurrency))

    @property
    def conversations_each(self) -> int:
        return max(1, round(self.turns / self.concurrency / self.turns_each))


Cost = Mapping[str, float]
"""Of one turn of a slice: cpu_us, redis_cpu_us, redis_reads, redis_bytes_in, redis_bytes_out, p50_us, p95_us,
p99_us, turns_s; where the server counts them, units and writes."""


def cpu_s(pid: int) -> float:
    """CPU time of one process since its start, all threads (clock_getcpuclockid(3), which Python lacks)."""
    return time.clock_gettime((~pid << 3) | 2)


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its living descendants."""
    return cpu_s(pid) + sum(cpu_s(child.pid) for child in psutil.Process(pid).children(recursive=True))


def _cpu_s(server: Server) -> float:
    return sum(tree_cpu_s(pid) for pid in server.pids)


def measure(server: Server, driver: Driver, client: redis.Redis, redis_pid: int, shape: Shape) -> Cost:
    """Prefill, run one slice, and return what a turn of it cost. Redis has to be the bench's own."""
    names = server.prefill(shape.concurrency * shape.conversations_each, shape.history)
    each = [names[number :: shape.concurrency] for number in range(shape.concurrency)]
    driver.prepare(Slice(server.ports, each, shape.turns_each, shape.text, shape.agent))
    sent = server.sent()
    info = _counters(client)
    cpu, redis_cpu = _cpu_s(server), tree_cpu_s(redis_pid)
    outcome = driver.go()
    cpu, redis_cpu = _cpu_s(server) - cpu, tree_cpu_s(redis_pid) - redis_cpu
    after = _counters(client)
    turns = outcome.turns
    cost = {
        "cpu_us": cpu * 1e6 / turns,
        "redis_cpu_us": redis_cpu * 1e6 / turns,
        "p50_us": outcome.percentile_us(0.50),
        "p95_us": outcome.percentile_us(0.95),
        "p99_us": outcome.percentile_us(0.99),
        "turns_s": turns / outcome.seconds,
    }
    cost |= {name: (after[name] - info[name]) / turns for name in info}
    sent_after = server.sent()
    if sent is not None and sent_after is not None:
        cost["units"], cost["writes"] = ((sent_after[n] - sent[n]) / turns for n in (0, 1))
    return cost


def _counters(client: redis.Redis) -> dict[str, float]:
    info: dict[str, Any] = client.info("stats")  # type: ignore[assignment]
    return {name: float(info[field]) for name, field in _INFO.items() if field in info}
