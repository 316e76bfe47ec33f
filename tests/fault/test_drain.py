"""A pod that is told to go: unready at once, serving on, its runs ended or handed over, its streams closed cleanly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import httpx2
import orjson
import psutil
import pytest

from tests.harness.haproxy import HAProxy
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import record, status, wait_until

TARGET = "tests.harness.agents:agents"
LIBRARIES = "import starlette.applications, uvicorn, redis.asyncio, orjson, pydantic, prometheus_client, uvloop, click"


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Each test begins with an empty Redis and is checked for leaked keys."""


def pod(server: RedisServer, name: str, drain_s: int, runs_s: int, **env: str) -> Pod:
    drains = {"AGENTRT_DRAIN_S": str(drain_s), "AGENTRT_DRAIN_RUNS_S": str(runs_s)}
    return Pod(server.url, target=TARGET, name=name, env={**drains, **env})


def ended(pod: Pod, within_s: float) -> float:
    """Seconds until the process is gone."""
    assert pod._process is not None
    begun = time.monotonic()
    try:
        pod._process.wait(within_s)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{pod.name} lives on after {within_s} s") from None
    return time.monotonic() - begun


class Stream:
    """A stream read in a thread: its events, and how it ended."""

    def __init__(self, url: str, words: int, **body: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.done = False
        self.error: Exception | None = None
        text = " ".join(["word"] * words)
        self._body = {"model": "slow", "input": text, "stream": True, **body}
        self._url = url
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            with httpx2.stream("POST", f"{self._url}/v1/responses", json=self._body, timeout=60) as answer:
                assert answer.status_code == 200, answer.read()
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        self.events.append(orjson.loads(line[6:]))
                    self.done |= line == "data: [DONE]"
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            self.error = error

    @property
    def response(self) -> str:
        return str(self.events[0]["response"]["id"])

    def going(self) -> Stream:
        """Wait for the first words."""
        wait_until(lambda: len(self.events) > 8, 10)
        return self


def resumed(url: str, response: str, last: int) -> Iterator[dict[str, Any]]:
    query = {"stream": "true", "starting_after": str(last)}
    with httpx2.stream("GET", f"{url}/v1/responses/{response}", params=query, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield orjson.loads(line[6:])


def ready(pod: Pod) -> tuple[int, str]:
    answer = httpx2.get(f"{pod.url}/readyz")
    return answer.status_code, answer.json()["status"]


def test_unready_at_once_and_serving_on(redis_server: RedisServer) -> None:
    """Readiness off, requests served until the window is over, each the last of its connection, then it is gone."""
    with pod(redis_server, "d-a", 2, 2) as a:
        assert ready(a) == (200, "ok")
        a.signal(signal.SIGTERM)
        begun = time.monotonic()
        wait_until(lambda: ready(a) == (503, "draining"), 0.5)
        while time.monotonic() - begun < 1.5:
            answer = httpx2.post(f"{a.url}/v1/responses", json={"model": "echo", "input": "hi"})
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        ended(a, 3)


def test_a_run_that_ends_in_time_is_not_cut(redis_server: RedisServer) -> None:
    """The pod waits for it, and no longer: its stream is whole."""
    with pod(redis_server, "d-b", 0, 20) as b, redis_server.client() as client:
        stream = Stream(b.url, 40).going()
        b.signal(signal.SIGTERM)
        assert ended(b, 10) > 1
        stream.thread.join()
        assert stream.error is None and stream.done
        assert stream.events[-1]["type"] == "response.completed"
        assert record(client, stream.response)["attempt"] == "1"


def test_a_run_that_takes_longer_is_handed_over(redis_server: RedisServer) -> None:
    """The stream ends cleanly without its end; another pod goes on at once, not after the lease; no attempt is lost."""
    with (
        pod(redis_server, "d-c", 0, 1) as c,
        pod(redis_server, "d-d", 0, 1) as d,
        redis_server.client() as client,
    ):
        streams = [Stream(c.url, 120).going() for _ in range(3)]
        background = httpx2.post(
            f"{c.url}/v1/responses", json={"model": "slow", "input": " ".join(["w"] * 120), "background": True}
        ).json()["id"]
        c.signal(signal.SIGTERM)
        ended(c, 5)
        # Long before the lease of 10 s has run out.
        wait_until(lambda: all(record(client, one.response)["pod"] == "d-d" for one in streams), 2)
        for stream in streams:
            stream.thread.join()
            assert stream.error is None and not stream.done
            last = stream.events[-1]["sequence_number"]
            later = list(resumed(d.url, stream.response, last))
            numbers = [event["sequence_number"] for event in [*stream.events, *later]]
            assert numbers == sorted(set(numbers))
            assert later[-1]["type"] == "response.completed"
            text = later[-1]["response"]["output"][-1]["content"][0]["text"]
            assert text.count("word") == 120
            kept = record(client, stream.response)
            assert (kept["attempt"], kept["spared"], kept["pod"]) == ("2", "1", "d-d")
        wait_until(lambda: status(client, background) == "completed", 15)


def test_a_plain_request_is_sent_elsewhere(redis_server: RedisServer) -> None:
    """One that cannot be answered in time gets a 503 that invites to come again; the message is the same run there."""
    body = {"model": "slow", "input": " ".join(["word"] * 100)}
    headers = {"Idempotency-Key": "drained"}
    answers: list[httpx2.Response] = []
    with pod(redis_server, "d-e", 0, 1) as e, pod(redis_server, "d-f", 0, 1) as f, redis_server.client() as client:

        def ask() -> None:
            answers.append(httpx2.post(f"{e.url}/v1/responses", json=body, headers=headers, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: any(b":run:" in key for key in client.scan_iter()), 5)
        e.signal(signal.SIGTERM)
        asking.join()
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "pod_leaving")
        assert answers[0].headers["retry-after"] == "1"
        again = httpx2.post(f"{f.url}/v1/responses", json=body, headers=headers, timeout=60)
        assert again.json()["output"][0]["content"][0]["text"].count("word") == 100
        assert record(client, again.json()["id"])["attempt"] == "2"


def test_a_second_signal_ends_it_at_once(redis_server: RedisServer) -> None:
    with pod(redis_server, "d-g", 30, 30) as g:
        Stream(g.url, 20).going()
        g.signal(signal.SIGTERM)
        wait_until(lambda: ready(g)[0] == 503, 1)
        g.signal(signal.SIGTERM)
        assert ended(g, 2) < 1


def test_a_start_costs_little_more_than_its_libraries(redis_server: RedisServer) -> None:
    """CPU time up to the first 200, next to that of importing what a pod is made of: no second is spent elsewhere."""
    before = os.times()
    subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
    after = os.times()
    libraries = after.children_user + after.children_system - before.children_user - before.children_system
    spent = []
    for number in range(3):
        with Pod(redis_server.url, target=TARGET, name=f"d-h{number}", cold=True) as one:
            times = psutil.Process(one.pid).cpu_times()
            spent.append(times.user + times.system)
    assert min(spent) < 3 * libraries, (spent, libraries)


# --- behind a load balancer -------------------------------------------------------------------------------------------


class Load:
    """Threads that send requests, plain ones and streams, until they are stopped; what failed is kept."""

    def __init__(self, url: str, plain: int, streams: int) -> None:
        self._url = url
        self._stop = threading.Event()
        self.answered = 0
        self.streamed = 0
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._plain) for _ in range(plain)]
        self._threads += [threading.Thread(target=self._stream) for _ in range(streams)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _note(self, failure: str | None, *, stream: bool = False) -> None:
        with self._lock:
            self.answered += not stream
            self.streamed += stream
            if failure is not None:
                self.failures.append(failure)

    def _plain(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/v1/responses", json={"model": "echo", "input": "hi"})
                    bad = answer.status_code != 200
                    self._note(f"{answer.status_code} {answer.text[:100]}" if bad else None)
                except httpx2.HTTPError as error:
                    self._note(repr(error))
                self._stop.wait(0.02)

    def _stream(self) -> None:
        while not self._stop.is_set():
            stream = Stream(self._url, 20)
            stream.thread.join()
            whole = stream.error is None and stream.done and stream.events[-1]["type"] == "response.completed"
            self._note(None if whole else f"stream: {stream.error!r} {stream.events[-1:]}", stream=True)


def seen(url: str, pod: Pod) -> None:
    """Wait until the balancer sends somebody to the pod."""
    wait_until(lambda: httpx2.get(f"{url}/livez").headers.get("x-agentrt-pod") == pod.name, 20, "a request to it")


class Balancer(Protocol):
    """What spreads requests over pods."""

    @property
    def url(self) -> str: ...


def restarted_one_by_one(
    redis_server: RedisServer, balanced: Callable[[list[Pod]], AbstractContextManager[Balancer]], draining: bool
) -> Load:
    """Two pods behind a balancer, under a load, each ended and started again: nothing failed where they drain first.
    The control kills them.
    """
    pods = [pod(redis_server, f"r-{'d' if draining else 'n'}{number}", 2, 15).start() for number in range(2)]
    try:
        with balanced(pods) as balancer, Load(balancer.url, plain=3, streams=2) as load:
            wait_until(lambda: load.answered > 50 and load.streamed > 1, 20)
            for one in pods:
                before = load.answered
                if draining:
                    one.signal(signal.SIGTERM)
                    ended(one, 25)
                else:
                    one.kill()
                one.start()
                wait_until(lambda before=before: load.answered > before + 50, 20)  # type: ignore[misc]
                seen(balancer.url, one)  # that it is back, before the next one goes
    finally:
        for one in pods:
            one.stop()
    assert load.answered > 200 and load.streamed > 5
    if draining:
        assert not load.failures, load.failures[:5]
    else:
        assert load.failures, "the control proves nothing"
    return load


@pytest.mark.needs("haproxy")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("draining", [True, False])
def test_a_rolling_restart_fails_no_request(redis_server: RedisServer, draining: bool) -> None:
    """All pods restarted one by one behind HAProxy without retries. The control restarts them without a drain."""
    restarted_one_by_one(redis_server, HAProxy, draining)


ASK = (
    b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 32\r\n\r\n"
    b'{"model": "echo", "input": "hi"}'
)


def knock(port: int, pause_s: float, answered: list[float], unanswered: list[str]) -> None:
    """Connect, ask and read, again and again, until nobody is there."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            return
        with connection:
            try:
                time.sleep(pause_s)
                connection.sendall(ASK)
                got = connection.recv(100)
            except OSError as error:
                got = repr(error).encode()
        if got.startswith(b"HTTP/1.1 200"):
            answered.append(time.monotonic())
        else:
            unanswered.append(got.decode())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be closed so")
@pytest.mark.parametrize("pause_s", [0, 0.02], ids=["asks at once", "asks after a moment"])
def test_who_could_connect_is_answered(redis_server: RedisServer, pause_s: float) -> None:
    """No drain, and no balancer that looks: the port is closed in the middle of the traffic, but not on anybody."""
    unanswered: list[str] = []
    for _ in range(4):
        with pod(redis_server, "d-k", 0, 5) as one, ThreadPoolExecutor(12) as callers:
            answered: list[float] = []
            calls = [callers.submit(knock, one.port, pause_s, answered, unanswered) for _ in range(12)]
            wait_until(lambda answered=answered: len(answered) > 50, 20)  # type: ignore[misc]
            one.signal(signal.SIGTERM)
            for call in calls:
                call.result()
            ended(one, 20)
    assert not unanswered, unanswered[:5]
