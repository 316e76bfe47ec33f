"""A pod is stopped for longer than its lease and its locks last, and goes on as if nothing had been (matrix row 12)."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sqlite3
from pathlib import Path

import httpx2
import psutil
import pytest

from agentrt.runtime.calls import IN_DOUBT_TEXT
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import effects, keys_of, wait_until
from tests.http.conftest import NO_TLS

AGENTS = "tests.harness.agents:agents"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("tool", "where", "said", "happened"),
    [
        ("once", "written plan", IN_DOUBT_TEXT, 0),
        ("once", "answered plan", IN_DOUBT_TEXT, 0),
        ("book", "answered plan", "booked-1", 1),
        ("book", "before record", "booked-1", 1),
        ("book", "before commit", "booked-1", 1),
    ],
)
def test_it_wakes_up_too_late(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, tool: str, where: str, said: str, happened: int
) -> None:
    """A call that was intended before never leaves, a result comes too late, a commit is refused: all is as it was."""
    sink, log = tmp_path / "world.db", tmp_path / "steps"
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_LEASE_MS": "1000", "AGENTRT_LOCK_TTL_MS": "1500"}
    asleep = {"KILL_AT": where, "KILL_BY": "SIGSTOP", "KILL_LOG": str(log)}
    ask = {"model": "worker", "input": tool}
    headers = {"Idempotency-Key": "the same"}
    sleeper = Pod(
        redis_url, name="sleeper", target=AGENTS, env={**env, **asleep}, entry=("-m", "tests.harness.pod_that_dies")
    )

    def send(pod: Pod) -> httpx2.Response:
        return httpx2.post(f"{pod.url}/v1/responses", json=ask, headers=headers, timeout=60, verify=NO_TLS)

    with (
        sleeper,
        Pod(redis_url, name="awake", target=AGENTS, env=env) as awake,
        concurrent.futures.ThreadPoolExecutor(1) as thread,
        redis_server.client() as client,
    ):
        first = thread.submit(send, sleeper)
        wait_until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED, 10, "falling asleep")
        answer = send(awake).json()
        assert answer["output"][-1]["content"][0]["text"] == said
        session, run = keys_of(answer["id"])
        before = client.hgetall(session.hash), client.lrange(session.items, 0, -1)
        os.kill(sleeper.pid, signal.SIGCONT)
        waited = first.result(30)
        if waited.status_code == 503:  # the sleeper's connection to Redis is as old as its lease: ask it again
            waited = send(sleeper)
        assert waited.json() == answer, "the client that waited with the sleeper gets the same answer"
        assert (client.hgetall(session.hash), client.lrange(session.items, 0, -1)) == before
        assert client.hget(session.run(run).hash, "attempt") == b"2"
    found = effects(sink) if sink.exists() and tables(sink) else []
    assert len(found) == len(set(found)) == happened


def tables(sink: Path) -> bool:
    """Whether anything ever happened in this world."""
    with sqlite3.connect(sink) as world:
        found = world.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone() is not None
    world.close()
    return found
