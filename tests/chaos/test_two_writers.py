"""Two writers, two pods, one session, and leases that run out under owners that live: no update is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from agentrt.store.keys import QueueKeys
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

TARGET = "tests.harness.agents:agents"


@contextmanager
def leases_running_out(server: RedisServer) -> Iterator[None]:
    """All the time, every lease is set to have run out long ago."""
    stop = threading.Event()
    leases = QueueKeys().leases

    def work() -> None:
        with server.client() as client:
            while not stop.wait(0.002):
                for member in client.zrange(leases, 0, -1):
                    client.zadd(leases, {member: 1}, xx=True)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write(pod: Pod, conversation: str, writer: int, turns: int, failures: list[str]) -> None:
    """`turns` turns, each sent again under its key until it is answered."""
    chance = random.Random(writer)
    with httpx2.Client(base_url=pod.url, timeout=60) as client:
        for number in range(turns):
            text = f"w{writer}-{number}"
            body = {"model": "slow" if chance.random() < 0.1 else "echo", "conversation": conversation, "input": text}
            deadline = time.monotonic() + 30
            while True:
                answer = client.post("/v1/responses", json=body, headers={"Idempotency-Key": text})
                if answer.status_code == 200 and answer.json()["status"] == "completed":
                    break
                if answer.status_code not in {409, 503} or time.monotonic() > deadline:
                    failures.append(f"{text}: {answer.status_code} {answer.text[:200]}")
                    return


def hammer(pods: list[Pod], server: RedisServer, turns: int) -> tuple[list[tuple[str, str]], list[str]]:
    """`turns` turns by two writers on two pods; the history that results, and what went wrong."""
    with httpx2.Client(base_url=pods[0].url, timeout=60) as client:
        conversation = client.post("/v1/conversations", json={}).json()["id"]
        failures: list[str] = []
        with leases_running_out(server):
            threads = [
                threading.Thread(target=write, args=(pod, conversation, number, turns // 2, failures))
                for number, pod in enumerate(pods)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        said: list[tuple[str, str]] = []
        page: dict[str, object] = {"has_more": True, "last_id": None}
        while page["has_more"]:
            query = {"order": "asc", "limit": 100, **({"after": page["last_id"]} if page["last_id"] else {})}
            page = client.get(f"/v1/conversations/{conversation}/items", params=query).json()
            said += [(item["role"], item["content"][0]["text"]) for item in page["data"]]  # type: ignore[attr-defined]
    return said, failures


def check(said: list[tuple[str, str]], failures: list[str], turns: int) -> None:
    """Each turn once, question before answer, each writer's turns in its own order."""
    assert not failures, failures[:3]
    questions = [text for role, text in said if role == "user"]
    assert said == [pair for text in questions for pair in (("user", text), ("assistant", f"echo: {text}"))]
    for writer in (0, 1):
        mine = [text for text in questions if text.startswith(f"w{writer}-")]
        assert mine == [f"w{writer}-{number}" for number in range(turns // 2)]


def claims(pods: list[Pod]) -> float:
    """How often a pod displaced another."""
    total = 0.0
    for pod in pods:
        for line in httpx2.get(f"{pod.url}/metrics").text.splitlines():
            if line.startswith('agentrt_begins_total{outcome="claimed"}'):
                total += float(line.split()[-1])
    return total


@pytest.mark.timeout(280)
def test_no_update_is_lost_while_leases_run_out_under_live_owners(redis_server: RedisServer) -> None:
    """1,000 concurrent turns; owners are displaced while they work, and their late writes are refused."""
    turns = 1000
    env = {"AGENTRT_ATTEMPTS_MAX": "1000"}  # nobody dies of a run here
    with (
        Pod(redis_server.url, target=TARGET, name="w-a", env=env) as a,
        Pod(redis_server.url, target=TARGET, name="w-b", env=env) as b,
    ):
        said, failures = hammer([a, b], redis_server, turns)
        displaced = claims([a, b])
    check(said, failures, turns)
    assert displaced >= 10, "hardly anybody was displaced: this proves nothing"


@pytest.mark.timeout(280)
def test_without_the_fence_the_same_run_loses_updates(tmp_path: Path) -> None:
    """The negative control: with the fence check taken out of the scripts, the very same check fails."""
    turns = 300
    entry = ("-m", "tests.negative.pod_without", "fence")
    with (
        RedisServer() as server,
        Pod(server.url, target=TARGET, name="n-a", entry=entry) as a,
        Pod(server.url, target=TARGET, name="n-b", entry=entry) as b,
    ):
        said, failures = [], ["the run itself broke"]
        with suppress(KeyError, httpx2.HTTPError):
            said, failures = hammer([a, b], server, turns)
    with pytest.raises(AssertionError):
        check(said, failures, turns)
