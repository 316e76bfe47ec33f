"""Runs killed at random moments, with calls of every class: what the world saw is what the journal says.

`make kills` does it with a thousand killed runs.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import time
from collections import Counter
from pathlib import Path

import httpx2
import orjson
import pytest
import redis

from agentrt.records import TERMINAL
from agentrt.store.journal import read_effects
from agentrt.store.keys import QueueKeys
from tests.harness.fleet import Fleet, submit
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import TENANT, effects, keys_of, record, status, wait_until

KILLED = int(os.environ.get("AGENTRT_KILLED_RUNS", "100"))
"""How many runs must lose their pod at least once."""
CALLS = ("book note wire read", "wire", "note book wire", "read wire note once")
OPEN = 36
"""So many runs are at work at any time, fewer than there are slots: none waits in the queue."""


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Begins with an empty Redis and is checked for leaked keys."""


class Ledger:
    """What the journals say of all runs, next to what happened."""

    def __init__(self, sink: Path) -> None:
        self.happened = Counter(effects(sink))
        self.states: Counter[str] = Counter()
        self.in_doubt: set[str] = set()
        self.planned: set[str] = set()
        self.wrong: list[str] = []

    def enter(self, client: redis.Redis, response: str) -> None:
        """Hold one ended run's journal against the world."""
        session, run = keys_of(response)
        stored = {name.decode(): value for name, value in client.hgetall(session.run(run).effects).items()}
        for key, (planned, _, outcome) in read_effects(stored).items():
            state = outcome.state if outcome is not None else "open"
            self.states[f"{planned.effect}, {state}"] += 1
            self.planned.add(key)
            if planned.effect == "read_only":
                continue
            if state == "in_doubt":
                self.in_doubt.add(f"{TENANT}/{session.id}/{run}/{key}")
            may_be = {"recorded": {1}, "failed": {0}, "in_doubt": {0, 1}}.get(state, set())
            if self.happened[key] not in may_be:
                self.wrong.append(f"{response} {planned.tool}: {state}, and happened {self.happened[key]} times")


def lost(found: dict[str, str]) -> bool:
    """Whether a run lost its pod; going over from one pod to another counts for nothing."""
    return int(found.get("attempt", 1)) - int(found.get("spared", 0)) > 1


@pytest.mark.timeout(1800)
def test_killed_runs_are_accounted_for(redis_server: RedisServer, tmp_path: Path) -> None:
    """No effect twice, none that the journal does not know; what is in doubt is listed, all of it."""
    sink = tmp_path / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_LEASE_MS": "2000", "AGENTRT_LOCK_TTL_MS": "2000"}
    env |= {"AGENTRT_MAX_RUNS": "16", "AGENTRT_ATTEMPTS_MAX": "100"}
    pods = [Pod(redis_server.url, target="tests.harness.agents:agents", name=f"x-{n}", env=env) for n in range(3)]
    responses: list[str] = []
    numbers = itertools.count()
    with (
        Fleet(pods, 2.5) as fleet,
        redis_server.client() as client,
        concurrent.futures.ThreadPoolExecutor(8) as threads,
        httpx2.Client(timeout=10) as http,
    ):

        def send(number: int) -> str:
            return submit(fleet.pods, http, number, CALLS[number % len(CALLS)])

        def unended() -> list[str]:
            return [one for one in at_work if status(client, one) not in TERMINAL]

        at_work: list[str] = []
        while sum(lost(record(client, response)) for response in responses) < KILLED:
            at_work = unended()
            sent = list(threads.map(send, itertools.islice(numbers, OPEN - len(at_work))))
            at_work += sent
            responses += sent
            time.sleep(0.1)
        wait_until(lambda: not unended(), 120, "the end of all runs")
        ledger = Ledger(sink)
        for response in responses:
            ledger.enter(client, response)
        listed = {member.decode() for member in client.zrange(QueueKeys().doubts, 0, -1)}
        told = {
            "runs": len(responses),
            "killed runs": sum(lost(record(client, response)) for response in responses),
            "kills": fleet.kills,
            "ended": dict(Counter(status(client, response) for response in responses)),
            "calls": dict(sorted(ledger.states.items())),
            "happened": sum(ledger.happened.values()),
            "in doubt and happened": sum(ledger.happened[member.rsplit("/", 1)[1]] for member in ledger.in_doubt),
        }
    if report := os.environ.get("AGENTRT_KILLS_REPORT"):
        Path(report).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
    assert not ledger.wrong, ledger.wrong
    assert set(ledger.happened) <= ledger.planned
    assert ledger.in_doubt <= listed
    assert ledger.in_doubt, "nothing was in doubt: this proves little"
