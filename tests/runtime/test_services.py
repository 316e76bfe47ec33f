"""What `app` builds besides the turn: the named locks, over the Redis that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agentrt.agent import Agent
from agentrt.errors import LockTimeout
from agentrt.store.keys import LockKeys, new_id
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import running

AGENTS = [Agent("echo", "scripted:echo")]
KEY = LockKeys("dev", "order:4711").hash


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


async def test_pods_share_their_locks(redis_url: str, redis_server: RedisServer) -> None:
    """On the state Redis, for as long as the settings say."""
    async with (
        running(redis_url, AGENTS, pod="a", lock_ttl_ms=3_000) as one,
        running(redis_url, AGENTS, pod="b") as other,
    ):
        async with one.services.locks.hold("dev", "order:4711", new_id(), 1) as held:
            assert 2_000 < held.left_ms < 3_000
            with redis_server.client() as client:
                assert client.hget(KEY, "fence") == b"%d" % held.fence
            with pytest.raises(LockTimeout):
                await other.services.locks.acquire("dev", "order:4711", new_id(), 0)
        await (await other.services.locks.acquire("dev", "order:4711", new_id(), 0)).release()


async def test_locks_on_masters_of_their_own(
    redis_url: str, redis_server: RedisServer, nodes: list[RedisServer]
) -> None:
    """Nothing of them is on the state Redis; the connections are closed in the end."""
    urls = ",".join(node.url for node in nodes)
    async with running(redis_url, AGENTS, lock_redis_urls=urls) as pod:
        async with pod.services.locks.hold("dev", "order:4711", new_id(), 1):
            with redis_server.client() as client:
                assert not client.exists(KEY)
        for node in nodes:
            with node.client() as client:
                assert client.exists(KEY)
    for node in nodes:
        with node.client() as client:
            assert [each["name"] for each in client.client_list()] == [""]
