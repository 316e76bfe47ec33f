"""`make memory-bench`: what recall costs, and what a memory costs a turn; goal 7 of the project.

Starts a Redis of its own on loopback. Redis has a core, this process has the other one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median

import uvloop
from tests.harness.redis_server import RedisServer

from loadtest import recall, remembering
from loadtest.driver import ROOT
from loadtest.recall import Figures
from loadtest.report import commit, machine
from loadtest.servers import LOAD_CORE, SERVER_CORE, on_core

_PAGE = """# Benchmarks of the memory

Written by `.venv/bin/python -m loadtest.memory --write`; do not edit. {date}, commit {commit}, {seconds:.0f} s.

{machine}{note}

Recall: 100,000 turns over 1,000 users, beside them one user with 2,000 and one with 20,000, with 384-dimensional
embeddings. A search reads the head of the user from Redis, as the first round trip of a turn does, and searches the
index that the pod holds; the question's embedding costs nothing here. Best of three rounds of 400 questions; `cold`:
the first search, which reads all turns. A turn of 14 words with its embedding takes {each:.0f} bytes of Redis.

The turn: one pod's runtime, from `begin` to `commit`, 16 at once, a window of 50 items, users with {turns} turns and
{facts} facts; a model that answers at once, no HTTP, jobs left to other pods. `read` is the one read that a memory
adds.

{tables}
"""


def _verdict(got: float, wanted: float) -> str:
    return "reached" if got <= wanted else f"**missed by {(got / wanted - 1) * 100:.0f} %**"


def render(figures: Sequence[Figures], turns: Mapping[str, list[tuple[float, float]]]) -> str:
    """The goals, and what was measured, in Markdown."""
    hybrid = next(one for one in figures if one.kind == "hybrid" and one.turns == 2_000)
    most = next(one for one in figures if one.kind == "hybrid" and one.turns == 20_000)
    cpu = remembering.ratio(turns, 0)
    goals = [
        ("recall, hybrid, 2,000 turns, p50, ms", 1.0, hybrid.p50_s * 1000),
        ("recall, hybrid, 2,000 turns, p99, ms", 10.0, hybrid.p99_s * 1000),
        ("recall, hybrid, 20,000 turns, p99, ms", 10.0, most.p99_s * 1000),
        ("CPU of a turn with a memory / without one and its read", 1.2, cpu),
    ]
    lines = ["| goal 7 | wanted | measured | |", "|---|---|---|---|"]
    lines += [f"| {name} | ≤ {wanted:g} | {got:.2f} | {_verdict(got, wanted)} |" for name, wanted, got in goals]
    lines += ["", "| turns | search | p50, ms | p99, ms | CPU, ms | cold, ms |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.turns:,} | {one.kind} | {one.p50_s * 1e3:.2f} | {one.p99_s * 1e3:.2f} | {one.cpu_s * 1e3:.2f} "
        f"| {one.cold_s * 1e3:.0f} |"
        for one in figures
    ]
    lines += ["", "| | CPU, µs | least | most | p50, µs |", "|---|---|---|---|---|"]
    for name, rounds in turns.items():
        each = [cpu_us for cpu_us, _ in rounds]
        p50_us = median(one for _, one in rounds)
        lines.append(f"| {name} | {median(each):.0f} | {min(each):.0f} | {max(each):.0f} | {p50_us:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.memory", description="What a memory costs.")
    parser.add_argument("--quick", action="store_true", help="the turns only, in fewer and shorter slices")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks-memory.md")
    parser.add_argument("--note", default="", help="what there is to say of the machine")
    args = parser.parse_args()
    started = time.monotonic()
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            redis = stack.enter_context(RedisServer())
        stack.enter_context(on_core(SERVER_CORE))
        rounds, count = (3, 160) if args.quick else (9, 480)
        turns = uvloop.run(remembering.measure(redis.url, rounds, count))
        if args.quick:
            print({name: [round(cpu) for cpu, _ in each] for name, each in turns.items()}, remembering.ratio(turns, 0))
            return
        with redis.client() as client:
            client.flushall()
            figures, each_bytes = uvloop.run(recall.measure(redis.url, client))
            version = str(client.info("server")["redis_version"])
    tables = render(figures, turns)
    print(tables)
    if args.write:
        page = _PAGE.format(
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            commit=commit(),
            seconds=time.monotonic() - started,
            machine=machine(version),
            note=f" {args.note}" if args.note else "",
            each=each_bytes,
            turns=remembering.TURNS,
            facts=remembering.FACTS,
            tables=tables,
        )
        (ROOT / "docs" / "benchmarks-memory.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
