"""A replica freezes while replicas are waited for: what must not happen twice waits with it, and nothing else does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import effects, keys_of, record, status, wait_until

WAITING = {"AGENTRT_WAIT_REPLICAS": "1", "AGENTRT_WAIT_TIMEOUT_MS": "200"}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    quick = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "60")
    with RedisServer(*quick) as master, RedisServer("--replicaof", "127.0.0.1", str(master.port), *quick) as replica:
        with master.client() as client:
            wait_until(lambda: bool(client.execute_command("WAIT", 1, 100)), 20, "replication")
        yield master, replica


@pytest.fixture
def frozen(servers: tuple[RedisServer, RedisServer]) -> Iterator[RedisServer]:
    """The master, whose replica is frozen until `thaw`, or the end of the test."""
    master, replica = servers
    replica.signal(signal.SIGSTOP)
    yield master
    replica.signal(signal.SIGCONT)
    with master.client() as client:
        wait_until(lambda: bool(client.execute_command("WAIT", 1, 100)), 20, "replication")


class Asked:
    """A request under way in a thread."""

    def __init__(self, pod: Pod, model: str, text: str, **body: Any) -> None:
        self.answer: httpx2.Response | None = None
        self._body = {"model": model, "input": text, **body}
        self._url = f"{pod.url}/v1/responses"
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        self.answer = httpx2.post(self._url, json=self._body, timeout=60)

    def result(self) -> httpx2.Response:
        self._thread.join()
        assert self.answer is not None
        return self.answer


def only_run(client: redis.Redis) -> str:
    """The response id of the one run that the master knows; empty before."""
    found = [key.decode() for key in client.scan_iter(match="agentrt:{dev/*:run:*", count=1000)]
    hashes = [key for key in found if not key.endswith((":effects", ":events"))]
    if not hashes:
        return ""
    session, _, run = hashes[0].removeprefix("agentrt:{dev/").partition("}:run:")
    return f"resp_{session}{run}"


def intended(client: redis.Redis, response: str) -> bool:
    """Whether an intent stands in the run's journal."""
    session, run = keys_of(response)
    return any(field.endswith(b"@") for field in client.hkeys(session.run(run).effects))


def pod_on(master: RedisServer, sink: Path, **env: str) -> Pod:
    env = {**WAITING, "AGENTRT_DEMO_DB": str(sink), **env}
    return Pod(master.url, name="w-a", target="tests.harness.agents:agents", env=env)


@pytest.mark.parametrize("stream", [False, True], ids=["answered", "streamed"])
def test_an_effect_that_nobody_acknowledged_does_not_happen(
    frozen: RedisServer, servers: tuple[RedisServer, RedisServer], tmp_path: Path, stream: bool
) -> None:
    """The run is put off again and again, its effect planned and no more, which is no attempt; then it happens once."""
    sink = tmp_path / "demo.db"
    with frozen.client() as client, pod_on(frozen, sink, AGENTRT_ATTEMPTS_MAX="1") as pod:
        client.flushall()
        asked = Asked(pod, "worker", "once", stream=stream)
        wait_until(lambda: bool(only_run(client)), 10, "a run")
        run = only_run(client)
        wait_until(lambda: int(record(client, run).get("spared", 0)) >= 2, 20, "two postponements")
        wait_until(lambda: not intended(client, run), 10, "the end of the intent")
        assert not sink.exists() or effects(sink) == []
        assert (status(client, run), asked.answer) == ("running", None)
        servers[1].signal(signal.SIGCONT)
        answer = asked.result()
        assert answer.status_code == 200
        assert status(client, run) == "completed"
        assert len(effects(sink)) == 1
        assert "done-1" in answer.text
        assert record(client, run)["attempt"] > "1"


def test_other_effects_and_turns_wait_for_nobody(frozen: RedisServer, tmp_path: Path) -> None:
    """An idempotent effect beside one that must not happen twice is planned with it, and put off with it; alone it is
    not. Turns are not either, unless that is asked for."""
    with pod_on(frozen, tmp_path / "demo.db") as pod:
        answer = Asked(pod, "worker", "note read").result()
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert len(effects(tmp_path / "demo.db")) == 1


def test_without_waiting_the_effect_happens(frozen: RedisServer, tmp_path: Path) -> None:
    """The control: the same frozen replica, and a master alone says that the intent is kept."""
    with pod_on(frozen, tmp_path / "demo.db", AGENTRT_WAIT_REPLICAS="0") as pod:
        assert Asked(pod, "worker", "once").result().status_code == 200
        assert len(effects(tmp_path / "demo.db")) == 1


def test_a_background_run_is_not_acknowledged_alone(
    frozen: RedisServer, servers: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    """503 with `Retry-After`; once the replica is back the same message is one run."""
    headers = {"Idempotency-Key": "background"}
    with pod_on(frozen, tmp_path / "demo.db") as pod, httpx2.Client(base_url=pod.url, timeout=30) as client:
        body = {"model": "echo", "input": "hi", "background": True}
        refused = client.post("/v1/responses", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        servers[1].signal(signal.SIGCONT)
        accepted = client.post("/v1/responses", json=body, headers=headers)
        assert accepted.status_code == 200
        answer = f"/v1/responses/{accepted.json()['id']}"
        wait_until(lambda: client.get(answer).json()["status"] == "completed", 30, "the run")


def test_the_end_of_a_turn_is_told_when_replicas_have_it(
    frozen: RedisServer, servers: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    """With `AGENTRT_WAIT_TURNS`: committed on the master, and nobody is told before the replica is back."""
    with frozen.client() as client, pod_on(frozen, tmp_path / "demo.db", AGENTRT_WAIT_TURNS="on") as pod:
        client.flushall()
        asked = Asked(pod, "echo", "hi")
        wait_until(lambda: bool(only_run(client)) and status(client, only_run(client)) == "completed", 10, "the commit")
        client.config_resetstat()
        wait_until(lambda: client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"] >= 2, 10, "waiting")
        assert asked.answer is None
        servers[1].signal(signal.SIGCONT)
        assert asked.result().json()["output"][0]["content"][0]["text"] == "echo: hi"
