"""Redis freezes or dies: the pods say so, answer 503, live on, and serve again by themselves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import httpx2

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer


def wait_until(condition: Callable[[], bool], bound_s: float) -> float:
    """Seconds until `condition` holds; fails past the bound."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < bound_s, f"not within {bound_s} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def turn(client: httpx2.Client) -> httpx2.Response:
    return client.post("/v1/responses", json={"model": "echo", "input": "hi"})


def test_a_frozen_redis_makes_every_pod_unready_and_back() -> None:
    """SIGSTOP Redis: 503 within 3 s on every pod, liveness stays; SIGCONT: ready within 3 s; nobody restarts."""
    with RedisServer() as server, Pod(server.url, name="r-a") as a, Pod(server.url, name="r-b") as b:
        pods = [a, b]
        pids = [pod.pid for pod in pods]
        server.signal(signal.SIGSTOP)
        wait_until(lambda: not any(pod.ready() for pod in pods), 3)
        for pod in pods:
            assert httpx2.get(f"{pod.url}/livez").status_code == 200
            check = httpx2.get(f"{pod.url}/readyz").json()["checks"]["redis"]
            assert (check["state"], check["reason"]) == ("down", "timeout")
        with httpx2.Client(base_url=a.url, timeout=10) as client:
            begun = time.monotonic()
            answer = turn(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - begun < 5
        server.signal(signal.SIGCONT)
        wait_until(lambda: all(pod.ready() for pod in pods), 3)
        assert [pod.pid for pod in pods] == pids and a.alive and b.alive
        with httpx2.Client(base_url=a.url, timeout=10) as client:
            assert turn(client).status_code == 200


def test_a_turn_in_flight_outlives_a_freeze() -> None:
    """A turn whose commit meets a frozen Redis is committed once Redis is back, exactly once."""
    with RedisServer() as server, Pod(server.url, name="r-c", target="tests.harness.agents:agents") as pod:
        with httpx2.Client(base_url=pod.url, timeout=30) as client:
            conversation = client.post("/v1/conversations", json={}).json()["id"]
            answers: list[httpx2.Response] = []
            body = {"model": "slow", "conversation": conversation, "input": "one two three four five six"}
            asking = threading.Thread(target=lambda: answers.append(client.post("/v1/responses", json=body)))
            asking.start()
            with server.client() as look:
                wait_until(lambda: any(b":run:" in key for key in look.scan_iter()), 5)
            server.signal(signal.SIGSTOP)
            time.sleep(3)  # longer than the connection's patience: the freeze itself is what is being tested
            server.signal(signal.SIGCONT)
            asking.join()
            assert answers[0].status_code == 200, answers[0].text
            items = client.get(f"/v1/conversations/{conversation}/items").json()["data"]
        assert [item["role"] for item in items] == ["assistant", "user"]


def test_a_pod_starts_without_redis_and_serves_once_it_is_there() -> None:
    """No Redis at the start is no reason to crash: the pod is live, not ready, and gets ready."""
    server = RedisServer()
    with server:
        url, port = server.url, server.port
    pod = Pod(url, name="r-d").start(wait=False)
    try:

        def answers(path: str, status: int) -> bool:
            try:
                return httpx2.get(f"{pod.url}{path}").status_code == status
            except httpx2.HTTPError:
                return False

        wait_until(lambda: answers("/livez", 200), 10)
        assert answers("/readyz", 503)
        with RedisServer(port=port):
            wait_until(lambda: answers("/readyz", 200), 5)
            with httpx2.Client(base_url=pod.url) as client:
                assert turn(client).status_code == 200
    finally:
        pod.stop()
