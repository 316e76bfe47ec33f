"""Runs whose pod is gone are finished without anybody asking; a run that kills its pods is given up."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest

from agentrt.store.keys import QueueKeys
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import effects, keys_of, record, status, wait_until
from tests.harness.warm import agentrt

TARGET = "tests.harness.agents:agents"
LEASE_MS = 1_000
ENV = {"AGENTRT_LEASE_MS": str(LEASE_MS)}
WITHIN_S = LEASE_MS / 1000 + 3
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Each test begins with an empty Redis and is checked for leaked keys."""


def pod(server: RedisServer, name: str, entry: tuple[str, ...] = ("-m", "agentrt.cli"), **env: str) -> Pod:
    return Pod(server.url, target=TARGET, name=name, env={**ENV, **env}, entry=entry)


def ask(pod: Pod, agent: str, text: str, **body: Any) -> dict[str, Any]:
    """Ask, and return the response object."""
    answer = httpx2.post(f"{pod.url}/v1/responses", json={"model": agent, "input": text, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def at_work(server: RedisServer, response: str) -> bool:
    """Whether something of the run's output is in its log."""
    with server.client() as client:
        return int(record(client, response).get("log", -1)) >= 2


@pytest.mark.parametrize("sweeping", [True, False])
def test_a_background_run_outlives_its_pod(redis_server: RedisServer, sweeping: bool) -> None:
    """Nobody asks for it; the other pod finishes it within the lease and three seconds. Without the sweep: never."""
    entry = ("-m", "agentrt.cli") if sweeping else ("-m", "tests.negative.pod_without", "sweep")
    with pod(redis_server, "l-a", entry) as a, pod(redis_server, "l-b", entry), redis_server.client() as client:
        response = ask(a, "slow", WORDS, background=True)["id"]
        assert status(client, response) == "running"
        a.kill()
        if sweeping:
            wait_until(lambda: status(client, response) == "completed", WITHIN_S)
            assert record(client, response)["attempt"] == "2"
        else:
            with pytest.raises(AssertionError, match="did not happen"):
                wait_until(lambda: status(client, response) == "completed", WITHIN_S)
        client.flushall()


def test_a_run_five_times_as_long_as_its_lease(redis_server: RedisServer) -> None:
    """Its pod lives, so it is nobody else's: one attempt, whatever sweeps meanwhile."""
    with pod(redis_server, "l-c") as c, pod(redis_server, "l-d"), redis_server.client() as client:
        response = ask(c, "slow", " ".join(["word"] * 100), background=True)["id"]
        wait_until(lambda: status(client, response) == "completed", 20)
        assert (record(client, response)["attempt"], record(client, response)["pod"]) == ("1", "l-c")


def test_the_pod_of_a_waiter_dies_before_its_turn(redis_server: RedisServer) -> None:
    """The session is granted to a pod that is gone: its run is found, and whoever comes next is served."""
    with pod(redis_server, "l-e") as e, pod(redis_server, "l-f") as f, redis_server.client() as client:
        conversation = httpx2.post(f"{e.url}/v1/conversations", json={}).json()["id"]
        first = ask(f, "slow", WORDS, conversation=conversation, background=True)["id"]
        session, _ = keys_of(first)

        def wait_in_line() -> None:
            with suppress(httpx2.HTTPError):
                httpx2.post(
                    f"{e.url}/v1/responses",
                    json={"model": "echo", "input": "second", "conversation": conversation},
                    timeout=30,
                )

        waiting = threading.Thread(target=wait_in_line)
        waiting.start()
        wait_until(lambda: bool(client.hget(session.hash, "waiters")), 5)
        run = orjson.loads(client.hget(session.hash, "waiters") or b"[]")[0][0]
        e.kill()
        waiting.join()
        wait_until(lambda: status(client, first) == "completed", 10)
        second = f"resp_{session.id}{run}"
        wait_until(lambda: status(client, second) == "completed", WITHIN_S)
        assert ask(f, "echo", "third", conversation=conversation)["output"][0]["content"][0]["text"] == "echo: third"


def test_a_pod_dies_between_begin_and_its_lease(redis_server: RedisServer) -> None:
    """As on two nodes of a Cluster: the session is owned, the timer knows nothing. The next message finds it."""
    with pod(redis_server, "l-g") as g, pod(redis_server, "l-h") as h, redis_server.client() as client:
        conversation = httpx2.post(f"{g.url}/v1/conversations", json={}).json()["id"]
        first = ask(g, "slow", WORDS, conversation=conversation, background=True)["id"]
        g.kill()
        client.delete(QueueKeys().leases)
        begun = time.monotonic()
        assert ask(h, "echo", "second", conversation=conversation)["status"] == "completed"
        assert time.monotonic() - begun < WITHIN_S
        assert status(client, first) == "completed"


def test_flushed_queue_keys(redis_server: RedisServer) -> None:
    """A failover that loses the whole queue slot loses no run: entries of living pods come back by themselves."""
    with pod(redis_server, "l-i") as i, pod(redis_server, "l-j"), redis_server.client() as client:
        response = ask(i, "slow", " ".join(["word"] * 60), background=True)["id"]
        client.delete(*(getattr(QueueKeys(), name) for name in ("leases", "ready", "since", "tags", "takes")))
        wait_until(lambda: client.zcard(QueueKeys().leases) == 1, 2 * LEASE_MS / 1000)
        wait_until(lambda: status(client, response) == "completed", 10)
        assert record(client, response)["attempt"] == "1"


# --- poison -----------------------------------------------------------------------------------------------------------


@contextmanager
def respawned(server: RedisServer, names: list[str], **env: str) -> Iterator[list[Pod]]:
    """Pods that are started again when they die, as a supervisor would; all in the folder of their sink."""
    pods = [pod(server, name, **env).start() for name in names]
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.05):
            for one in pods:
                if not one.alive:
                    one.start(wait=False)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield pods
    finally:
        stop.set()
        keeper.join()
        for one in pods:
            one.stop()


def queue(server: RedisServer, *command: str) -> subprocess.CompletedProcess[str]:
    """`agentrt queue dead ...`."""
    return agentrt("queue", "dead", *command, env={"AGENTRT_REDIS_URL": server.url})


@pytest.mark.timeout(120)
def test_a_run_that_kills_its_pods(redis_server: RedisServer, tmp_path: Path) -> None:
    """Three pods die of it; then it is a dead letter, its client has an answer, and its session is free."""
    bait = tmp_path / "bait"
    bait.touch()
    with respawned(redis_server, ["p-a", "p-b"]) as pods, redis_server.client() as client:
        conversation = httpx2.post(f"{pods[0].url}/v1/conversations", json={}).json()["id"]
        with suppress(httpx2.HTTPError):
            ask(pods[0], "poison", str(bait), conversation=conversation)
        wait_until(lambda: client.hlen(QueueKeys().dead) == 1, 40)
        name, raw = next(iter(client.hgetall(QueueKeys().dead).items()))
        letter = orjson.loads(raw)
        assert (letter["attempts"], letter["agent"]) == (3, "poison")
        _, session, run = name.decode().split("/")
        response = f"resp_{session}{run}"
        wait_until(lambda: status(client, response) == "failed", 5)
        wait_until(lambda: all(one.ready() for one in pods), 20)
        assert record(client, response)["attempt"] == "4"
        answer = httpx2.get(f"{pods[1].url}/v1/responses/{response}").json()
        assert answer["status"] == "failed" and "3 attempts" in answer["error"]["message"]
        assert ask(pods[1], "echo", "next", conversation=conversation)["status"] == "completed"

        listed = queue(redis_server, "list")
        assert listed.stdout.startswith(f"{name.decode()} ") and "poison: 3 attempts" in listed.stdout
        assert queue(redis_server, "drop", "dev/x/y").returncode == 1
        bait.unlink()
        retried = queue(redis_server, "retry", name.decode())
        assert retried.returncode == 0, retried.stderr
        assert queue(redis_server, "list").stdout == ""
        wait_until(lambda: status(client, response) == "completed", 5)


@pytest.mark.timeout(120)
def test_a_dead_letter_is_dropped(redis_server: RedisServer, tmp_path: Path) -> None:
    """With one attempt allowed, the second pod gives up at once."""
    bait = tmp_path / "bait"
    bait.touch()
    with respawned(redis_server, ["p-c", "p-d"], AGENTRT_ATTEMPTS_MAX="1") as pods, redis_server.client() as client:
        with suppress(httpx2.HTTPError):
            ask(pods[0], "poison", str(bait))
        wait_until(lambda: client.hlen(QueueKeys().dead) == 1, 20)
        name = next(iter(client.hgetall(QueueKeys().dead))).decode()
        assert queue(redis_server, "drop", name).returncode == 0
        assert client.hlen(QueueKeys().dead) == 0


# --- streams ----------------------------------------------------------------------------------------------------------


def events(client: httpx2.Client, method: str, path: str, **request: Any) -> Iterator[dict[str, Any]]:
    """The events of a stream."""
    with client.stream(method, path, **request) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield orjson.loads(line[6:])


@pytest.mark.timeout(90)
def test_a_stream_with_a_tool_goes_on_elsewhere(redis_server: RedisServer, tmp_path: Path) -> None:
    """Default lease. SIGKILL behind the tool's record: ≤ 13 s to the next event, none twice, one effect."""
    sink = tmp_path / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_LEASE_MS": "10000"}
    with (
        pod(redis_server, "s-a", **env) as a,
        pod(redis_server, "s-b", **env) as b,
        httpx2.Client(base_url=a.url, timeout=30) as to_a,
        httpx2.Client(base_url=b.url, timeout=30) as to_b,
    ):
        seen: list[dict[str, Any]] = []
        with suppress(httpx2.HTTPError):
            for event in events(to_a, "POST", "/v1/responses", json={"model": "teller", "input": "40", "stream": True}):
                seen.append(event)
                if sum(one["type"] == "response.output_text.delta" for one in seen) == 5:
                    a.kill()
                    killed = time.monotonic()
        response, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        rest: list[dict[str, Any]] = []
        query = {"stream": "true", "starting_after": str(last)}
        for event in events(to_b, "GET", f"/v1/responses/{response}", params=query):
            if not rest:
                assert time.monotonic() - killed < 13
            rest.append(event)
    numbers = [event["sequence_number"] for event in [*seen, *rest]]
    assert numbers == sorted(set(numbers))
    assert rest[-1]["type"] == "response.completed"
    final = rest[-1]["response"]["output"]
    assert final[-1]["content"][0]["text"].split() == [f"w{number}" for number in range(40)]
    assert [item["type"] for item in final] == ["mcp_call", "message"]
    assert len(effects(sink)) == 1


@pytest.mark.timeout(90)
def test_a_log_that_stalls_before_the_kill() -> None:
    """Redis freezes, the client reads 300 more events, the pod is killed: another one tells the rest, all closed."""
    with (
        RedisServer() as server,
        pod(server, "e-a") as a,
        pod(server, "e-b") as b,
        httpx2.Client(base_url=a.url, timeout=30) as to_a,
        httpx2.Client(base_url=b.url, timeout=30) as to_b,
    ):
        seen: list[dict[str, Any]] = []
        with suppress(httpx2.HTTPError):
            for event in events(to_a, "POST", "/v1/responses", json={"model": "fast", "input": "500", "stream": True}):
                seen.append(event)
                if len(seen) == 40:
                    server.signal(signal.SIGSTOP)
                if len(seen) == 340:
                    a.kill()
        assert len(seen) >= 340
        server.signal(signal.SIGCONT)
        wait_until(b.ready, 10)
        response, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        query = {"stream": "true", "starting_after": str(last)}
        rest = list(events(to_b, "GET", f"/v1/responses/{response}", params=query))
        with (
            openai.OpenAI(base_url=f"{b.url}/v1", api_key="any", max_retries=0) as strict,
            strict.responses.stream(response_id=response) as stream,
        ):
            final = stream.get_final_response()
    told = [*seen, *rest]
    numbers = [event["sequence_number"] for event in told]
    assert numbers == sorted(set(numbers))
    opened = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    closed = [event["output_index"] for event in told if event["type"] == "response.output_item.done"]
    assert opened == closed == [0, 1]
    assert final.output_text.split() == [f"w{number}" for number in range(500)]


@pytest.mark.timeout(90)
def test_everything_lost(redis_server: RedisServer) -> None:
    """FLUSHALL under a run: its client is told, the pod serves on at once, and errors do not pour."""
    with pod(redis_server, "f-a") as a, redis_server.client() as client:
        with httpx2.Client(base_url=a.url, timeout=30) as to_a:
            seen = []
            for event in events(to_a, "POST", "/v1/responses", json={"model": "slow", "input": WORDS, "stream": True}):
                seen.append(event["type"])
                if len(seen) == 6:
                    before = len(a.log.read_text().splitlines())
                    client.flushall()
            assert seen[-1] != "response.completed"
            begun = time.monotonic()
            assert ask(a, "echo", "still there")["status"] == "completed"
            assert time.monotonic() - begun < 5
            time.sleep(2)  # the time in which errors would pour
            metrics = httpx2.get(f"{a.url}/metrics").text
        assert "agentrt_runs_in_flight 0.0" in metrics
        told = a.log.read_text().splitlines()[before:]
        loud = [line for line in told if " ERROR " in line or " WARNING " in line]
        assert len(loud) <= 3, loud


@pytest.mark.timeout(90)
def test_an_open_intent_holds_no_slot(redis_server: RedisServer, tmp_path: Path) -> None:
    """The pod dies inside the tool: the run is parked until its lock has run out, the only slot serves others."""
    sink, lock_ms = tmp_path / "demo.db", 6_000
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_LOCK_TTL_MS": str(lock_ms), "AGENTRT_MAX_RUNS": "1"}
    target = "agentrt.demo:agents"
    with (
        Pod(redis_server.url, target=target, name="i-a", env={**ENV, **env}) as a,
        Pod(redis_server.url, target=target, name="i-b", env={**ENV, **env}) as b,
        httpx2.Client(base_url=a.url, timeout=30) as to_a,
        httpx2.Client(base_url=b.url, timeout=30) as to_b,
        redis_server.client() as client,
    ):
        seen: list[dict[str, Any]] = []
        body = {"model": "support", "input": "open a slow ticket 3: leak", "stream": True}
        with suppress(httpx2.HTTPError):
            for event in events(to_a, "POST", "/v1/responses", json=body):
                seen.append(event)
                if event["type"] == "response.mcp_call.in_progress":
                    a.kill()
                    killed = time.monotonic()
        response, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        parked = 'agentrt_claims_total{outcome="parked"} 1.0'
        wait_until(lambda: parked in httpx2.get(f"{b.url}/metrics").text, WITHIN_S)
        assert ask(b, "echo", "hi")["status"] == "completed"
        assert status(client, response) == "running"
        rest = list(
            events(to_b, "GET", f"/v1/responses/{response}", params={"stream": "true", "starting_after": str(last)})
        )
        assert time.monotonic() - killed > lock_ms / 1000 - 1
    kinds = [event["type"] for event in rest]
    assert "agentrt:recovering" in kinds
    assert kinds[-1] == "response.completed"
    numbers = [event["sequence_number"] for event in [*seen, *rest]]
    assert numbers == sorted(set(numbers))
    assert len(effects(sink)) <= 1
