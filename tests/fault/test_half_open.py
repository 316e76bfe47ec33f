"""A link to Redis on which nothing comes any more, and a Redis that became a replica: 503, then back, wake-ups too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2
import redis

from tests.harness.pod import Pod
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer

PATIENCE_S = 30
"""The figures are 3 s to notice and 5 s to be back, on a machine that has nothing else to do; they are printed."""


async def seconds_until(condition: Callable[[], bool]) -> float:
    begun = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


def turn(pod: Pod) -> httpx2.Response:
    return httpx2.post(f"{pod.url}/v1/responses", json={"model": "echo", "input": "hi"}, timeout=30)


def listens(client: redis.Redis, pod: Pod) -> bool:
    return dict(client.pubsub_numsub(f"agentrt:pod:{pod.name}"))[f"agentrt:pod:{pod.name}".encode()] > 0


def reason(pod: Pod) -> str:
    return str(httpx2.get(f"{pod.url}/readyz", timeout=10).json()["checks"]["redis"]["reason"])


async def test_nothing_comes_any_more() -> None:
    """No packet, no reset: every connection stays open and is silent, the subscription's too."""
    with RedisServer() as server, server.client() as client:
        async with ByteProxy(server.port) as link:
            pod = Pod(link.url, name="ho-a")
            try:
                await asyncio.to_thread(pod.start)
                await seconds_until(lambda: listens(client, pod))
                link.blackhole = True
                away_s = await seconds_until(lambda: not pod.ready())
                answer = await asyncio.to_thread(turn, pod)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
                assert await asyncio.to_thread(reason, pod) == "timeout"
                client.client_kill_filter(_type="pubsub")  # the server's end of the old one: only a new one counts
                link.blackhole = False
                back_s = await seconds_until(lambda: pod.ready() and turn(pod).status_code == 200)
                heard_s = await seconds_until(lambda: listens(client, pod))
                print(
                    f"noticed after {away_s:.1f} s, back after {back_s:.1f} s, listening after {back_s + heard_s:.1f} s"
                )
            finally:
                await asyncio.to_thread(pod.stop)


async def test_a_master_becomes_a_replica_and_a_master_again() -> None:
    """Nobody else is named: the pod says so and waits."""
    with RedisServer() as server, server.client() as client:
        pod = Pod(server.url, name="ho-b")
        try:
            await asyncio.to_thread(pod.start)
            client.replicaof("127.0.0.1", "1")
            away_s = await seconds_until(lambda: not pod.ready())
            assert await asyncio.to_thread(reason, pod) == "readonly"
            answer = await asyncio.to_thread(turn, pod)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            client.replicaof("no", "one")
            back_s = await seconds_until(lambda: pod.ready() and turn(pod).status_code == 200)
            print(f"noticed after {away_s:.1f} s, back after {back_s:.1f} s")
        finally:
            await asyncio.to_thread(pod.stop)
