"""How connections follow a server that is replaced, without anybody's announcing it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agentrt.store.connection import Redis, RedisOptions, new_connection
from agentrt.store.handover import TakenOver, take_over
from agentrt.store.multiplexer import Multiplexer, MultiplexerLimits, RedisReplyError
from agentrt.store.notices import Notices
from agentrt.store.scripts import load_all, pack
from tests.harness.redis_server import RedisServer
from tests.store.stage import connected, until

WRITE = pack("SET", "key", "value")


@pytest.fixture
def servers() -> Iterator[list[RedisServer]]:
    with RedisServer() as first, RedisServer() as second:
        yield [first, second]


class Name:
    """What a DNS name or a Sentinel does: says where to connect, which may change."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers

    async def dial(self, protocol: asyncio.Protocol) -> TakenOver:
        return await take_over(new_connection(RedisOptions(self.servers[0].url)), protocol)

    def fail_over(self) -> None:
        """The other server is the master now, and this one a replica of it; no connection breaks."""
        old, new = self.servers
        with old.client() as client:
            client.replicaof("127.0.0.1", new.port)
        self.servers = [new, old]


async def test_a_demoted_server_is_left_at_its_first_refusal(servers: list[RedisServer]) -> None:
    name = Name(servers)
    line = Multiplexer(name.dial, MultiplexerLimits(demoted_s_min=0))
    line.start()
    await line.wait_connected(5)
    assert await line.submit(WRITE, 1) == [b"OK"]
    name.fail_over()
    refused = (await line.submit(WRITE, 1))[0]
    assert isinstance(refused, RedisReplyError)
    assert refused.code == "READONLY"
    await line.wait_connected(5)
    assert await line.submit(WRITE, 1) == [b"OK"]
    with servers[1].client() as client:
        assert client.get("key") == b"value"
    assert line.stats.connects == 2
    await line.aclose()


async def test_one_that_stays_a_replica_is_not_dialled_for_every_write(servers: list[RedisServer]) -> None:
    name = Name(servers)
    name.fail_over()
    name.servers.reverse()
    line = Multiplexer(name.dial, MultiplexerLimits(demoted_s_min=3600))
    line.start()
    await line.wait_connected(5)
    for _ in range(20):
        assert isinstance((await line.submit(WRITE, 1))[0], RedisReplyError)
    assert line.stats.connects == 1
    await line.aclose()


async def test_scripts_are_there_before_anything_is_sent(servers: list[RedisServer]) -> None:
    async with connected(servers[0].url):
        with servers[0].client() as client:
            assert all(client.script_exists(*(script.sha for script in load_all().values())))


async def test_behind_a_fail_over_silence_is_no_sign_of_death(servers: list[RedisServer]) -> None:
    """Another pod may not have found the new server yet; before, a pod without a subscription is known to be gone."""
    async with connected(servers[0].url) as redis:
        notices = Notices(redis, RedisOptions(servers[0].url), "pod-here")
        notices.start()
        await _listens(redis, "pod-here")
        assert not await notices.listening("pod-gone")
        with servers[0].client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: redis.stats.connects == 2)
        assert await notices.listening("pod-gone")
        await _listens(redis, "pod-here")
        await notices.aclose()


async def _listens(redis: Redis, pod: str) -> None:
    probe = Notices(redis, RedisOptions(""), pod)  # not started: it looks, and follows nobody
    async with asyncio.timeout(10):
        while not await probe.listening(pod):
            await asyncio.sleep(0.005)
