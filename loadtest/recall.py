"""What recall costs, and what a memory costs a turn; goal 7 of the project.

Redis has a core, this process has the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median

import uvloop
from tests.harness.redis_server import RedisServer

from loadtest import remembering, searches
from loadtest.figures import Goal, Section, Table, command_line, number
from loadtest.searches import Figures
from loadtest.servers import LOAD_CORE, SERVER_CORE, on_core

_TEXT = """100,000 turns over 1,000 users, beside them one user with 2,000 and one with 20,000, with 384-dimensional
embeddings; a turn of 14 words with its embedding takes {each:.0f} bytes of Redis. A search reads the head of the user
from Redis, as the first round trip of a turn does, and searches the index that the pod holds. The question's embedding
costs nothing here; for the cosines of 2,000 turns numpy by itself takes {product:.0f} µs on this machine. Best of the
rounds of 400 questions; `cold`: the first search, which reads all turns.

The turn: one pod's runtime, from `begin` to `commit`, 16 at once, a window of 50 items, users with {turns} turns and
{facts} facts; a model that answers at once, no HTTP, jobs left to other pods. `read` is the one read that a memory
adds, `search` nothing but the lexical search of an index that is there."""
_TIME = (
    "a time, and so the machine's: where the goal comes from, the cosines of 2,000 turns took 69 µs; what numpy by "
    "itself takes for them here stands above the table, and the CPU of a search in it"
)
_TURN = (
    "the goal leaves a fifth of a turn that asks no model and has no HTTP: less than the search takes by itself, some "
    "dozen calls of numpy (see the table); the block, its lines and the account of them come on top"
)


def section(
    figures: Sequence[Figures], each: float, turns: Mapping[str, list[tuple[float, float]]], redis: str
) -> Section:
    """Goal 7."""
    two, twenty = (
        next(one for one in figures if one.kind == "hybrid" and one.turns == count) for count in (2_000, 20_000)
    )
    goals = [
        Goal(7, "recall, hybrid, 2,000 turns, p50, ms", "most", 1, [two.p50_s * 1e3], _TIME),
        Goal(7, "recall, hybrid, 2,000 turns, p99, ms", "most", 10, [two.p99_s * 1e3], _TIME),
        Goal(7, "recall, hybrid, 20,000 turns, p99, ms", "most", 10, [twenty.p99_s * 1e3], _TIME),
        Goal(7, "CPU, turn with a memory / without and its read", "most", 1.2, remembering.ratios(turns), _TURN),
    ]
    found = [
        [f"{one.turns:,}, {one.kind}", *(number(s * 1e3) for s in (one.p50_s, one.p99_s, one.cpu_s, one.cold_s))]
        for one in figures
    ]
    costs = [
        [name, *(f"{of([cpu for cpu, _ in rounds]):,.0f}" for of in (median, min, max))]
        for name, rounds in turns.items()
    ]
    tables = [
        Table(("search", "p50, ms", "p99, ms", "CPU, ms", "cold, ms"), found),
        Table(("turn", "CPU, µs", "least", "most"), costs),
    ]
    kept = {f"turn_{name}_memory_cpu_us": median(cpu for cpu, _ in turns[name]) for name in ("with", "without")}
    product_us = searches.product_s(2_000) * 1e6
    text = _TEXT.format(each=each, turns=remembering.TURNS, facts=remembering.FACTS, product=product_us)
    return Section("recall", "Recall (goal 7)", text, goals, tables, (), kept, ("numpy",), redis)


def measured(quick: bool) -> Section:
    """Goal 7, measured."""
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            redis = stack.enter_context(RedisServer())
        stack.enter_context(on_core(SERVER_CORE))
        turns = uvloop.run(remembering.measure(redis.url, *((3, 160) if quick else (9, 480))))
        with redis.client() as client:
            client.flushall()
            figures, each = uvloop.run(searches.measure(redis.url, client, 1 if quick else 3))
        return section(figures, each, turns, redis.version)


if __name__ == "__main__":
    command_line("recall", "What recall costs, and what a memory costs a turn.", measured)
