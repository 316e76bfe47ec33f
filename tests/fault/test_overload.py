"""More runs than slots: they wait for whichever pod has room, their clients follow them, and too many are refused."""

from __future__ import annotations

import concurrent.futures
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from agentrt.store.keys import QueueKeys
from tests.harness.fleet import Fleet, submit
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import effects, keys_of, record, status, wait_until

TARGET = "tests.harness.agents:agents"
LONG = " ".join(["word"] * 60)
RUNS = int(os.environ.get("AGENTRT_KILLS_RUNS", "500"))
"""Runs of the big test; `make kills-runs` makes it 10,000."""


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Each test begins with an empty Redis and is checked for leaked keys."""


def pod(server: RedisServer, name: str, max_runs: int = 1, **env: str) -> Pod:
    return Pod(server.url, target=TARGET, name=name, env={"AGENTRT_MAX_RUNS": str(max_runs), **env})


def post(pod: Pod, agent: str, text: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{pod.url}/v1/responses", json={"model": agent, "input": text, **body}, timeout=60)


def occupy(pod: Pod, client: Any) -> str:
    """Give the pod's only slot to a run of three seconds."""
    response: str = post(pod, "slow", LONG, background=True).json()["id"]
    wait_until(lambda: record(client, response).get("pod") == pod.name, 5)
    return response


def test_a_full_pod_relays_what_another_one_runs(redis_server: RedisServer) -> None:
    """The client sees no difference; the run was executed where there was room."""
    with pod(redis_server, "o-a") as a, pod(redis_server, "o-b", 4) as b, redis_server.client() as client:
        occupy(a, client)
        begun = time.monotonic()
        answer = post(a, "echo", "hello")
        assert answer.status_code == 200 and answer.headers["x-agentrt-pod"] == "o-a"
        assert answer.json()["output"][0]["content"][0]["text"] == "echo: hello"
        assert record(client, answer.json()["id"])["pod"] == "o-b"
        assert time.monotonic() - begun < 1.5, "nobody was told: it waited for the poll"
        with openai.OpenAI(base_url=f"{a.url}/v1", api_key="any", max_retries=0) as strict:
            events = list(strict.responses.create(model="slow", input="one two three", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].response.output_text == "echo: one two three"  # type: ignore[union-attr]
        assert record(client, events[-1].response.id)["pod"] == "o-b"  # type: ignore[union-attr]
        assert b.alive


def test_alone_it_serves_what_waits_when_a_slot_is_free(redis_server: RedisServer) -> None:
    """Every request is answered, one after the other, none refused."""
    with pod(redis_server, "o-c") as c, concurrent.futures.ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda number: post(c, "slow", f"word {number}"), range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len({answer.json()["id"] for answer in answers}) == 12


def test_a_full_queue_refuses(redis_server: RedisServer) -> None:
    """429 with Retry-After, nothing begun; an unmodified client comes again and is served."""
    with pod(redis_server, "o-d", AGENTRT_QUEUE_LIMIT="1") as d, redis_server.client() as client:
        occupy(d, client)
        queued = post(d, "echo", "waits", background=True).json()
        assert queued["status"] == "queued"
        wait_until(lambda: client.zcard(QueueKeys().ready) == 1, 2)
        refused = post(d, "echo", "refused")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        with openai.OpenAI(base_url=f"{d.url}/v1", api_key="any", max_retries=6) as patient:
            assert patient.responses.create(model="echo", input="again").output_text == "echo: again"
        wait_until(lambda: status(client, queued["id"]) == "completed", 5)


def test_clients_before_the_background(redis_server: RedisServer) -> None:
    """Twenty runs in the background wait; a client that comes last is served next."""
    with pod(redis_server, "o-e") as e, redis_server.client() as client:
        occupy(e, client)
        waiting = [post(e, "slow", "one two", background=True).json()["id"] for _ in range(20)]
        assert post(e, "echo", "me first").status_code == 200
        assert sum(status(client, response) == "completed" for response in waiting) <= 2
        wait_until(lambda: all(status(client, response) == "completed" for response in waiting), 20)


def test_a_queued_run_is_cancelled(redis_server: RedisServer) -> None:
    """Before its turn, from any pod; it is never worked on to its end."""
    with pod(redis_server, "o-f") as f, redis_server.client() as client:
        occupy(f, client)
        queued = post(f, "slow", LONG, background=True).json()["id"]
        httpx2.post(f"{f.url}/v1/responses/{queued}/cancel", timeout=30)
        wait_until(lambda: status(client, queued) == "cancelled", 6)


# --- gauges -----------------------------------------------------------------------------------------------------------


def gauge(pod: Pod, name: str) -> float:
    """A sample of the pod's metrics."""
    text = httpx2.get(f"{pod.url}/metrics").text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_the_gauges_lie_between_the_truth_before_and_after(redis_server: RedisServer) -> None:
    """Depth and age, scraped while the queue drains, on a pod that takes nothing itself."""
    with pod(redis_server, "o-g") as g, redis_server.client() as client:
        occupy(g, client)
        waiting = [post(g, "slow", "one", background=True).json()["id"] for _ in range(15)]

        def truth() -> tuple[float, float]:
            since = client.zrange(QueueKeys().since, 0, 0, withscores=True)
            seconds, micros = client.time()
            age = int(seconds) + int(micros) / 1e6 - since[0][1] / 1000 if since else 0.0
            return float(client.zcard(QueueKeys().ready)), age

        seen = set()
        while any(status(client, response) != "completed" for response in waiting):
            before, _ = truth()
            depth = gauge(g, "agentrt_queue_depth")
            after, _ = truth()
            assert after <= depth <= before
            seen.add(depth)
            _, least = truth()
            age = gauge(g, "agentrt_queue_oldest_seconds")
            _, most = truth()
            assert min(least, most) - 0.5 <= age <= max(least, most) + 0.5
            time.sleep(0.02)
        assert len(seen) > 3
        assert gauge(g, "agentrt_queue_depth") == gauge(g, "agentrt_queue_oldest_seconds") == 0
        assert gauge(g, "agentrt_runs_capacity") == 1


# --- many runs, dying pods --------------------------------------------------------------------------------------------


@pytest.mark.timeout(240 + RUNS // 5)
def test_background_runs_under_kills_end_exactly_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """Three pods, one killed every few seconds: each run ends once, with one effect; the queue drains."""
    sink = tmp_path / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_LEASE_MS": "2000", "AGENTRT_LOCK_TTL_MS": "2000"}
    env |= {"AGENTRT_QUEUE_LIMIT": "20000"}
    pods = [pod(redis_server, f"k-{number}", 8, **env) for number in range(3)]
    with Fleet(pods, 5 if RUNS > 1_000 else 2.5) as fleet, redis_server.client() as client:
        with concurrent.futures.ThreadPoolExecutor(8) as threads, httpx2.Client(timeout=10) as http:
            responses = list(threads.map(lambda number: submit(fleet.pods, http, number, "book"), range(RUNS)))
        assert len(set(responses)) == RUNS

        def open_runs() -> int:
            with client.pipeline(transaction=False) as pipe:
                for response in responses:
                    session, run = keys_of(response)
                    pipe.hget(session.run(run).hash, "status")
                return sum(found != b"completed" for found in pipe.execute())

        wait_until(lambda: open_runs() == 0, 120 + RUNS / 8, f"{RUNS} runs")
        assert fleet.kills >= 2, "nobody died: this proves nothing"
        for response in responses:
            session, _ = keys_of(response)
            kept = client.lrange(session.items, 0, -1)
            assert len(kept) == 3, f"{response}: {kept}"
            assert client.hget(session.hash, "rev") == b"1"
        assert client.zcard(QueueKeys().ready) == 0
        wait_until(lambda: client.zcard(QueueKeys().leases) == 0, 6)
        assert client.hlen(QueueKeys().dead) == 0
    happened = effects(sink)
    assert len(happened) == len(set(happened)) == RUNS
