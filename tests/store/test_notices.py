"""The subscription: what is said wakes who waits for it, and one that is dead without knowing it is replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import orjson
import pytest
import redis as redis_py

from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.keys import pod_channel
from agentrt.store.notices import Notices
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
