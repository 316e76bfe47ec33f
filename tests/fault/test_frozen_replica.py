"""A replica freezes while replicas are waited for: what must not happen twice waits with it, and nothing else does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
def frozen(servers: tuple[RedisServer, RedisServer]) -> Iterator[Callable[[], None]]:
    """The replica is frozen until this is called, or until the end of the test."""
    master, replica = servers
    replica.signal(signal.SIGSTOP)
    yield lambda: replica.signal(signal.SIGCONT)
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


@dataclass
class Stage:
    """A pod that waits for the replica, its Redis, and where its effects leave rows."""

    pod: Pod
    client: redis.Redis
    sink: Path

    def happened(self) -> int:
        return len(effects(self.sink)) if self.sink.exists() else 0


@pytest.fixture(scope="module")
def running(servers: tuple[RedisServer, RedisServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    sink = tmp_path_factory.mktemp("frozen") / "demo.db"
    env = {**WAITING, "AGENTRT_DEMO_DB": str(sink), "AGENTRT_ATTEMPTS_MAX": "1"}
    with (
        Pod(servers[0].url, name="w-a", target="tests.harness.agents:agents", env=env) as pod,
        servers[0].client() as client,
    ):
        yield Stage(pod, client, sink)


@pytest.fixture
def stage(running: Stage, frozen: Callable[[], None]) -> Stage:
    """An empty one, with the replica frozen."""
    running.client.flushall()
    running.sink.unlink(missing_ok=True)
    return running


@pytest.mark.parametrize("stream", [False, True], ids=["answered", "streamed"])
def test_an_effect_that_nobody_acknowledged_does_not_happen(
    stage: Stage, frozen: Callable[[], None], stream: bool
) -> None:
    """The run is put off again and again, its effect planned and no more, which is no attempt; then it happens once."""
    client = stage.client
    asked = Asked(stage.pod, "worker", "once", stream=stream)
    wait_until(lambda: bool(only_run(client)), 10, "a run")
    run = only_run(client)
    wait_until(lambda: int(record(client, run).get("spared", 0)) >= 2, 20, "two postponements")
    wait_until(lambda: not intended(client, run), 10, "the end of the intent")
    assert stage.happened() == 0
    assert (status(client, run), asked.answer) == ("running", None)
    frozen()
    answer = asked.result()
    assert answer.status_code == 200
    assert "done-1" in answer.text
    assert (status(client, run), stage.happened()) == ("completed", 1)
    assert int(record(client, run)["attempt"]) > 2


def test_other_effects_and_turns_wait_for_nobody(stage: Stage) -> None:
    """What the downstream deduplicates, or what changes nothing, may be repeated should a fail-over forget it."""
    answer = Asked(stage.pod, "worker", "note read").result()
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert stage.happened() == 1


def test_a_background_run_is_not_acknowledged_alone(stage: Stage, frozen: Callable[[], None]) -> None:
    """503 with `Retry-After`; once the replica is back the same message is one run."""
    with httpx2.Client(base_url=stage.pod.url, timeout=30) as client:
        body = {"model": "echo", "input": "hi", "background": True}
        headers = {"Idempotency-Key": "background"}
        refused = client.post("/v1/responses", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        frozen()
        answers: list[httpx2.Response] = []

        def accept() -> bool:
            """As a client does that was told to come again: the replica may need more than one wait to wake up."""
            answers.append(client.post("/v1/responses", json=body, headers=headers))
            return answers[-1].status_code == 200

        wait_until(accept, 10, "the replica")
        accepted = answers[-1]
        answer = f"/v1/responses/{accepted.json()['id']}"
        wait_until(lambda: client.get(answer).json()["status"] == "completed", 30, "the run")
        assert accepted.json()["id"] == only_run(stage.client)
