"""Pods behind nginx, as deploy/nginx.conf has it: silent restarts, streams as they come, nothing sent twice."""

from __future__ import annotations

import re
import threading

import httpx2
import orjson
import pytest
import redis

from tests.fault.test_drain import pod, restarted_one_by_one
from tests.harness.nginx import Nginx
from tests.harness.redis_server import RedisServer
from tests.harness.runs import status, wait_until

pytestmark = [pytest.mark.needs("nginx"), pytest.mark.timeout(180)]

GZIP = ("client_max_body_size 4m;", "client_max_body_size 4m; gzip on; gzip_types text/event-stream;")
DEAF = ("proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_ignore_headers X-Accel-Buffering;")
SENDING_TWICE = ("proxy_next_upstream error timeout;", "proxy_next_upstream error timeout non_idempotent;")


@pytest.fixture(autouse=True)
def _empty(redis_url: str) -> None:
    """Each test begins with an empty Redis and is checked for leaked keys."""


@pytest.mark.parametrize("draining", [True, False], ids=["draining", "control"])
def test_a_rolling_restart_fails_no_request(redis_server: RedisServer, draining: bool) -> None:
    """All pods restarted one by one; nginx looks at no readiness. The control restarts them without a drain."""
    load = restarted_one_by_one(redis_server, Nginx, draining)
    print(f"{load.answered} requests and {load.streamed} streams, {len(load.failures)} failed")


def at_the_tenth_word(url: str, client: redis.Redis) -> str:
    """The state of a run of 80 words when the tenth arrives. What nginx reads with the headers it passes on at once."""
    body = {"model": "slow", "input": " ".join(["word"] * 80), "stream": True}
    with httpx2.stream("POST", f"{url}/v1/responses", json=body, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = (orjson.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        response = str(next(events)["response"]["id"])
        deltas = (event for event in events if event["type"] == "response.output_text.delta")
        for _ in range(10):
            next(deltas)
        return status(client, response)


def test_a_stream_is_not_held_back(redis_server: RedisServer) -> None:
    """Its words arrive while its run goes on, compressed on the way too. The control compresses, and ignores what
    the pod says of buffering."""
    with pod(redis_server, "n-s", 0, 0) as one, redis_server.client() as client:
        for changes in ((), (GZIP,)):
            with Nginx([one], *changes) as balancer:
                assert at_the_tenth_word(balancer.url, client) == "running"
        with Nginx([one], GZIP, DEAF) as balancer:
            assert at_the_tenth_word(balancer.url, client) == "completed", "the control proves nothing"


def runs_in(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter(match="agentrt:*:run:*") if re.fullmatch(rb".*:run:\w{22}", key)]


@pytest.mark.parametrize("change", [None, SENDING_TWICE], ids=["shipped", "control"])
def test_a_message_without_a_key_is_sent_once(redis_server: RedisServer, change: tuple[str, str] | None) -> None:
    """Its pod dies: the client is told, and the run goes on elsewhere. With `non_idempotent` it would be two runs."""
    names = [f"n-{'o' if change is None else 't'}{number}" for number in range(2)]
    pods = {name: pod(redis_server, name, 0, 0).start() for name in names}
    answers: list[httpx2.Response] = []
    body = {"model": "slow", "input": " ".join(["word"] * 60)}
    try:
        with Nginx(list(pods.values()), *([change] if change else [])) as balancer, redis_server.client() as client:

            def ask() -> None:
                answers.append(httpx2.post(f"{balancer.url}/v1/responses", json=body, timeout=60))

            asking = threading.Thread(target=ask)
            asking.start()
            wait_until(lambda: len(runs_in(client)) == 1, 10)
            (run,) = runs_in(client)
            pods[client.hget(run, "pod").decode()].kill()
            asking.join()
            if change is None:
                assert answers[0].status_code == 502
                assert runs_in(client) == [run]
                wait_until(lambda: client.hget(run, "status") == b"completed", 30)
            else:
                assert answers[0].status_code == 200
                assert len(runs_in(client)) == 2, "the control proves nothing"
    finally:
        for one in pods.values():
            one.stop()
