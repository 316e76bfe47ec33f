"""The subscription: what is said wakes who waits for it, and one that is dead without knowing it is replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Literal

import orjson
import pytest
import redis as redis_py

from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.keys import pod_channel
from agentrt.store.notices import Notices, _Ear
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.store.stage import until


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[ByteProxy]:
    async with ByteProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def notices(redis: Redis, proxy: ByteProxy, outside: redis_py.Redis) -> AsyncIterator[Notices]:
    """Listening through the proxy, as a pod of its own name: those of other tests may live on."""
    notices = Notices(redis, RedisOptions(proxy.url), "pod-listening")
    notices.start()
    await until(lambda: subscribers(outside) == 1)
    yield notices
    await notices.aclose()
    await until(lambda: subscribers(outside) == 0)


def subscribers(outside: redis_py.Redis) -> int:
    return int(outside.pubsub_numsub(pod_channel("pod-listening"))[0][1])


def say(outside: redis_py.Redis, kind: str, subject: str) -> None:
    outside.publish(pod_channel("pod-listening"), orjson.dumps([kind, "where", subject]))


async def heard(event: asyncio.Event) -> None:
    async with asyncio.timeout(1):
        await event.wait()
    event.clear()


async def test_who_waits_is_woken(notices: Notices, outside: redis_py.Redis) -> None:
    """By its own subject, all who wait for it, and nobody else; a cancellation is remembered."""
    events = [notices.subscribe(subject) for subject in ("run", "run", "other")]
    say(outside, "granted", "run")
    for event in events[:2]:
        await heard(event)
    assert not events[2].is_set()
    notices.unsubscribe("run", events[0])
    notices.at_work.add("run")
    say(outside, "cancel", "elsewhere")
    say(outside, "cancel", "run")
    await heard(events[1])
    assert not events[0].is_set()
    assert notices.cancelled == {"run": "1"}


async def test_what_is_no_notice_does_not_end_it(notices: Notices, outside: redis_py.Redis) -> None:
    """Somebody else writes into the channel: the subscription is taken up again at once."""
    event = notices.subscribe("run")
    outside.publish(pod_channel("pod-listening"), "hello")
    await heard(event)  # whoever waits looks for itself, since something may have been missed
    await until(lambda: say(outside, "granted", "run") or event.is_set(), 2)


async def test_a_broken_subscription_wakes_everybody(
    notices: Notices, proxy: ByteProxy, outside: redis_py.Redis
) -> None:
    event = notices.subscribe("run")
    proxy.cut()
    await heard(event)
    await until(lambda: proxy.connections == 2 and subscribers(outside) == 1, 2)
    say(outside, "granted", "run")
    await heard(event)


async def test_a_half_open_subscription_is_replaced(
    notices: Notices, proxy: ByteProxy, outside: redis_py.Redis
) -> None:
    """No byte arrives any more and no error either: noticed within 5 s, where redis-py's own was deaf for 25 and on."""
    event = notices.subscribe("run")
    proxy.blackhole = True
    say(outside, "granted", "run")
    async with asyncio.timeout(5):
        await event.wait()
    event.clear()
    proxy.blackhole = False
    proxy.cut()
    await until(lambda: say(outside, "granted", "run") or event.is_set(), 5)


async def test_a_subscription_that_is_refused_is_no_sign_of_life(
    redis: Redis, proxy: ByteProxy, outside: redis_py.Redis
) -> None:
    """Its age grows, so that somebody is told, however often Redis answers that it is not allowed."""
    outside.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "&*", "+@all", "-subscribe")
    notices = Notices(redis, RedisOptions(proxy.url.replace("//", "//deaf:secret@")), "pod-deaf")
    made = time.monotonic()
    try:
        notices.start()
        await until(lambda: proxy.connections >= 3)
        now = time.monotonic()
        assert notices.age_s >= now - made
    finally:
        await notices.aclose()
        outside.execute_command("ACL", "DELUSER", "deaf")


async def test_no_defect_ends_the_listening(
    notices: Notices, proxy: ByteProxy, outside: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deaf pod is taken for a dead one by all others, and hears of nothing."""
    hear, failed = Notices._hear, asyncio.Event()

    async def failing(self: Notices, ear: _Ear) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("unable to perform operation on a closed transport")
        await hear(self, ear)

    monkeypatch.setattr(Notices, "_hear", failing)
    proxy.cut()
    async with asyncio.timeout(5):
        await failed.wait()
    await until(lambda: subscribers(outside) == 1, 5)
    event = notices.subscribe("run")
    await until(lambda: say(outside, "granted", "run") or event.is_set(), 5)


async def test_closed_when_it_was_to_be_pinged(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the connection and the end of the silence come together: nothing is written into what is closed."""
    monkeypatch.setattr("agentrt.store.notices._SILENCE_S", 0.0)
    written: list[bytes] = []

    class Closed:
        transport = type("_", (), {"write": lambda _, data: written.append(data), "abort": lambda _: None})()

        async def close(self) -> None: ...

    async def closed(_connection: object, ear: _Ear) -> Closed:
        ear.connection_lost(None)
        return Closed()

    class Late(asyncio.Event):
        async def wait(self) -> Literal[True]:
            assert len(written) == 1, "the subscription, and no ping"
            ear.heard = True
            raise TimeoutError

    monkeypatch.setattr("agentrt.store.notices.take_over", closed)
    notices = Notices(redis, redis.options, "pod-closed")
    ear = _Ear(lambda *_: None, lambda: None)
    ear.closed = Late()
    async with asyncio.timeout(5):
        await notices._hear(ear)
    assert len(written) == 1
