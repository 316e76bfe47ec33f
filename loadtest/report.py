"""From slices to tables: medians, ratios of neighbouring slices, the goals and by how much they were met."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from loadtest.driver import ROOT
from loadtest.measure import Cost

__all__ = ["Results", "page", "render"]

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


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run. `slices`: by (concurrency, history) a (floor, agentrt) pair for each round; `flat`: for each round
    the costs with the shortest and the longest history, at a window of `flat_window`; `waits`: by server."""

    slices: Mapping[tuple[int, int], Sequence[Sequence[Cost]]]
    histories: Sequence[int]
    flat: Sequence[Sequence[Cost]]
    flat_window: int
    waits: Mapping[str, float]
    redis_version: str
    seconds: float

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


def render(results: Results) -> str:
    """All tables, in Markdown."""
    concurrencies = sorted({concurrency for concurrency, _ in results.slices}, reverse=True)
    parts = [_goals(results)]
    parts += [_costs(results, concurrency) for concurrency in concurrencies]
    parts.append(_flat(results))
    return "\n\n".join(parts)


def _goals(results: Results) -> str:
    rows = [
        ("1", "CPU, 16 at once, agentrt / floor", 0.45, results.ratios("cpu_us", 16, _HEADLINE)),
        ("1", "CPU of Redis, 16 at once, agentrt / floor", 1.1, results.ratios("redis_cpu_us", 16, _HEADLINE)),
        ("1", "latency p50, one at a time, agentrt / floor", 1.0, results.ratios("p50_us", 1, _HEADLINE)),
        ("2", "CPU, longest / shortest history, equal window", 1.2, results.growth("cpu_us")),
        ("2", "bytes, longest / shortest history, equal window", 1.1, results.growth_bytes()),
    ]
    lines = ["| goal | what | wanted | measured (least–most) | |", "|---|---|---|---|---|"]
    for goal, what, wanted, ratios in rows:
        got = median(ratios)
        verdict = "reached" if got <= wanted else f"**missed by {(got / wanted - 1) * 100:.0f} %**"
        lines.append(f"| {goal} | {what} | ≤ {wanted} | {got:.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {verdict} |")
    waits = results.waits["agentrt"]
    verdict = "reached" if round(waits) == 2 else "**missed**"  # a count; the rest is the noise of timers
    note = f"{waits:.2f} (floor {results.waits['floor']:.2f})"
    lines.insert(4, f"| 1 | waits for Redis in a turn, one after the other | = 2 | {note} | {verdict} |")
    return "\n".join(lines)


def _costs(results: Results, concurrency: int) -> str:
    head = f"per turn, {concurrency} at once: agentrt / floor = ratio"
    lines = [_row([head, *(f"{history:,} items" for history in results.histories)]), _rule(len(results.histories))]
    for metric, what in _METRICS.items():
        cells = [_cell(results, metric, concurrency, history) for history in results.histories]
        lines.append(_row([what, *cells]))
    for metric, what in _POD_METRICS.items():
        values = [
            median(pod[metric] for _, pod in results.slices[concurrency, history]) for history in results.histories
        ]
        lines.append(_row([what, *(_number(value) for value in values)]))
    return "\n".join(lines)


def _cell(results: Results, metric: str, concurrency: int, history: int) -> str:
    pairs = results.slices[concurrency, history]
    floor, pod = (median(pair[n][metric] for pair in pairs) for n in (0, 1))
    return f"{_number(pod)} / {_number(floor)} = {median(results.ratios(metric, concurrency, history)):.2f}"


def _flat(results: Results) -> str:
    first, last = results.histories[0], results.histories[-1]
    head = f"agentrt per turn, 16 at once, window of {results.flat_window}"
    columns = [f"{first:,} items", f"{last:,} items", f"{last:,} / {first:,}"]
    lines = [_row([head, *columns]), _rule(len(columns))]
    for metric, what in _METRICS.items():
        values = [median(costs[n][metric] for costs in results.flat) for n in (0, 1)]
        lines.append(_row([what, *(_number(value) for value in values), f"{median(results.growth(metric)):.2f}"]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return f"|{'---|' * (columns + 1)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"


# --- the page ---------------------------------------------------------------------------------------------------------

_PAGE = """# Benchmarks

Written by `{command}`; do not edit. {date}, commit {commit}, {rounds} rounds, {seconds:.0f} s.

{machine}

A turn is one `POST /v1/responses` with an `Idempotency-Key` in an existing conversation, answered by the demo agent
`echo`, whose model takes no time: what is measured is the runtime alone. The *floor* is a Starlette endpoint that does
two redis-py pipelines a turn and has none of the safety (`loadtest/floor.py`). Items are about 300 bytes; both read the
newest 50. The server has one core; Redis and the load have the other one. Floor and pod are measured in turns, slice by
slice; a ratio is the median of the ratios of neighbouring slices, so it holds where the absolute numbers do not.

Waits are counted by making every reply of Redis late by 10 and by 30 ms: a turn gets longer by the difference for each
wait. Reads by Redis may be more: the lease is ended by a write that nobody waits for.

{tables}
"""


def page(results: Results, tables: str, command: str) -> str:
    """docs/benchmarks.md."""
    return _PAGE.format(
        command=f"{command} --write" if "loadtest" in command else ".venv/bin/python -m loadtest.bench --write",
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=commit(),
        rounds=len(results.flat),
        seconds=results.seconds,
        machine=machine(results.redis_version),
        tables=tables,
    )


def commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "src") else ""
    return f"`{git('rev-parse', '--short', 'HEAD') or 'unknown'}`{changed}"


def machine(redis_version: str) -> str:
    cores = os.cpu_count() or 1
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "starlette", "redis", "hiredis"))
    return (
        f"{cores} cores ({_processor()}), {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}; "
        f"{platform.python_implementation()} {platform.python_version()}, Redis {redis_version}, {libraries}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((row.partition(": ")[2] for row in rows if row.startswith("model name")), "unknown")
