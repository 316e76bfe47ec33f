"""Named locks on three independent Redis: rows 19 and 20 of docs/matrix.md, and what else can happen to a majority."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from agentrt.clock import boottime_ms
from agentrt.errors import LockLost, LockTimeout, SettingsError, StoreUnavailable
from agentrt.store.keys import LockKeys, new_id
from agentrt.store.locks import Held, LockConfig, Locks
from agentrt.store.quorum import NODE_S, Quorum
from agentrt.tasks import Errands
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.store.stage import connected, locking, until, without

NAME = "order:4711"
KEY = LockKeys("acme", NAME)
FAR = 5_000_000_000_000_001
"""A fence of the next century: the clock of the node that minted it is ahead."""


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


def urls(nodes: list[RedisServer]) -> list[str]:
    return [node.url for node in nodes]


@pytest.fixture
async def locks(redis_url: str, nodes: list[RedisServer]) -> AsyncIterator[Locks]:
    async with locking(redis_url, urls=urls(nodes)) as locks:
        yield locks


@pytest.fixture
async def others(redis_url: str, nodes: list[RedisServer]) -> AsyncIterator[Locks]:
    """Another pod."""
    async with locking(redis_url, pod="locks-b", urls=urls(nodes)) as locks:
        yield locks


async def take(locks: Locks, wait_s: float = 5) -> Held:
    return await locks.acquire("acme", NAME, new_id(), wait_s)


def on(node: RedisServer, field: str) -> bytes | None:
    """A field of the lock on one node."""
    with node.client() as client:
        return client.hget(KEY.hash, field)


def restart_empty(node: RedisServer) -> None:
    node.signal(signal.SIGKILL)
    assert node._process is not None
    node._process.wait()
    node.start()


# --- a majority -------------------------------------------------------------------------------------------------------


async def test_one_holder(locks: Locks, others: Locks, nodes: list[RedisServer]) -> None:
    """All three know it, and it is given back on all three; every key has its TTL."""
    held = await take(locks)
    with pytest.raises(LockTimeout):
        await take(others, 0.2)
    await until(lambda: all(on(node, "holder") for node in nodes))
    await held.release()
    await until(lambda: not any(on(node, "holder") for node in nodes))
    second = await take(others)
    assert second.fence > held.fence
    await second.release()
    for node in nodes:
        with node.client() as client:
            assert 3_000 < client.ttl(KEY.hash) <= 3_600


async def test_one_down_acquires(locks: Locks, nodes: list[RedisServer]) -> None:
    nodes[1].stop()
    held = await take(locks, 1)
    await held.release()
    assert on(nodes[0], "holder") is None


async def test_two_down_refuses(locks: Locks, nodes: list[RedisServer]) -> None:
    """A majority of the configured three, not of those that answer; and nothing stays locked on the one that does."""
    for node in nodes[:2]:
        node.stop()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="1 of 3"):
        await take(locks, 0.3)
    assert time.monotonic() - began < 1.0
    await until(lambda: on(nodes[2], "holder") is None)


async def test_a_node_that_hangs_costs_a_moment(locks: Locks, nodes: list[RedisServer]) -> None:
    """The other two settle it; and to be refused takes no longer than a node may take."""
    nodes[0].signal(signal.SIGSTOP)
    began = time.monotonic()
    await (await take(locks)).release()
    assert time.monotonic() - began < NODE_S
    nodes[1].signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await take(locks, 0)
    assert time.monotonic() - began < 4 * NODE_S


async def test_no_overlap(locks: Locks, others: Locks, nodes: list[RedisServer]) -> None:
    """Six contenders on two pods, while one node after the other hangs for a while: one at a time, fences in order."""
    inside = 0
    fences: list[int] = []
    stop = asyncio.Event()

    async def contend(locks: Locks) -> None:
        nonlocal inside
        while not stop.is_set():
            try:
                async with locks.hold("acme", NAME, new_id(), 5) as held:
                    inside += 1
                    assert inside == 1, "two holders"
                    fences.append(held.fence)
                    await asyncio.sleep(0.001)
                    inside -= 1
            except (StoreUnavailable, LockTimeout):
                continue

    contending = [asyncio.create_task(contend((locks, others)[n % 2])) for n in range(6)]
    for node in nodes:
        seen = len(fences)
        await until(lambda seen=seen: len(fences) >= seen + 10 or any(task.done() for task in contending))
        node.signal(signal.SIGSTOP)
        await until(lambda seen=seen: len(fences) >= seen + 20 or any(task.done() for task in contending))
        node.signal(signal.SIGCONT)
    stop.set()
    await asyncio.gather(*contending)
    assert fences == sorted(set(fences))


async def test_a_minority_for_a_majority_overlaps(redis_url: str, nodes: list[RedisServer]) -> None:
    """The control: one node of three, each with its own, and two pods hold the same lock."""
    async with locking(redis_url, urls=urls(nodes[:1])) as one, locking(redis_url, urls=urls(nodes[1:2])) as other:
        held = [await take(one, 0), await take(other, 0)]
        for each in held:
            each.check()
            await each.release()


async def test_rivals_do_not_split_for_ever(locks: Locks, others: Locks) -> None:
    """All at once, again and again: everybody gets through, by random pauses."""
    async with asyncio.timeout(20):
        for _ in range(5):
            rivals = await asyncio.gather(*(hold_once((locks, others)[n % 2]) for n in range(4)))
            assert all(rivals)


async def hold_once(locks: Locks) -> bool:
    async with locks.hold("acme", NAME, new_id(), 10):
        return True


async def test_a_late_release_frees_nothing(nodes: list[RedisServer]) -> None:
    """That of an earlier attempt, delayed on its way, though the caller came with the same token again."""
    async with AsyncExitStack() as stack:
        redis = [await stack.enter_async_context(connected(url)) for url in urls(nodes)]
        quorum, token = Quorum(redis, LockConfig("pod-a"), Errands()), new_id()
        first = await quorum.take(KEY, token, 5)
        await quorum.release(KEY, first.token)
        second = await quorum.take(KEY, token, 5)
        await quorum.release(KEY, first.token)
        assert await quorum.renew(KEY, second.token) is not None
        await quorum.release(KEY, second.token)


# --- the fence --------------------------------------------------------------------------------------------------------


async def test_the_fence_survives_a_node_that_forgot(locks: Locks, nodes: list[RedisServer]) -> None:
    """One node's clock is far ahead, so the fence is its; then it comes back empty. The others know the fence."""
    await (await take(locks)).release()
    with nodes[0].client() as client:
        client.hset(KEY.hash, "fence", FAR)
    held = await with_node(locks, nodes, 0)
    assert held.fence == FAR + 1
    await held.release()
    restart_empty(nodes[0])
    fences = [held.fence]
    for _ in range(3):
        again = await take(locks)
        fences.append(again.fence)
        await again.release()
    assert fences == sorted(set(fences))


async def with_node(locks: Locks, nodes: list[RedisServer], number: int) -> Held:
    """Take the lock by a majority that has this node in it: another one hangs."""
    other = nodes[(number + 1) % 3]
    other.signal(signal.SIGSTOP)
    try:
        return await take(locks)
    finally:
        other.signal(signal.SIGCONT)


async def test_negative_control_the_fence_is_not_written_back(nodes: list[RedisServer]) -> None:
    """Without the way back the next majority mints a lower fence."""
    async with AsyncExitStack() as stack:
        redis = [await stack.enter_async_context(connected(url)) for url in urls(nodes)]
        quorum = Quorum(redis, LockConfig("pod-a"), Errands())
        for node in redis:
            node.scripts["lock_raise"] = without(
                node.scripts["lock_raise"], "  redis.call('HSET', lock, 'fence', fence)"
            )
        first = await taken(quorum)
        with nodes[0].client() as client:
            client.hset(KEY.hash, "fence", FAR)
        nodes[1].signal(signal.SIGSTOP)
        second = await taken(quorum)
        nodes[1].signal(signal.SIGCONT)
        restart_empty(nodes[0])
        await until(lambda: redis[0].connected)
        third = await taken(quorum)
    assert first < second
    assert third < second


async def taken(quorum: Quorum) -> int:
    """Take and give back; the fence."""
    tenure = await quorum.take(KEY, new_id(), 5)
    await quorum.release(KEY, tenure.token)
    return tenure.fence


# --- holding it -------------------------------------------------------------------------------------------------------


async def test_it_is_held_though_a_node_forgets(redis_url: str, nodes: list[RedisServer], others: Locks) -> None:
    """One of three says that the lock is not ours: the other two decide, for longer than the lock's time."""
    async with locking(redis_url, urls=urls(nodes), lock_ms=600) as locks:
        held = await take(locks)
        restart_empty(nodes[2])
        with pytest.raises(LockTimeout):
            await take(others, 1.3)
        held.check()
        await held.release()


async def test_a_majority_that_says_no_ends_it(redis_url: str, nodes: list[RedisServer]) -> None:
    """Two of three forgot: told at the next renewal, and the block is cancelled."""
    async with locking(redis_url, urls=urls(nodes), lock_ms=1_500) as locks:
        with pytest.raises(LockLost) as caught:
            async with asyncio.timeout(5), locks.hold("acme", NAME, new_id(), 1):
                forgot = time.monotonic()
                for node in nodes[:2]:
                    with node.client() as client:
                        client.delete(KEY.hash)
                await asyncio.Event().wait()
        assert caught.value.reason == "taken"
        assert time.monotonic() - forgot <= 0.7


async def test_a_majority_that_is_silent_ends_it_before_the_deadline(redis_url: str, nodes: list[RedisServer]) -> None:
    async with locking(redis_url, urls=urls(nodes), lock_ms=1_500) as locks:
        held = await take(locks)
        for node in nodes[:2]:
            node.signal(signal.SIGSTOP)
        await asyncio.wait_for(held.lost.wait(), 5)
        assert held.why == "deadline"
        assert boottime_ms() < held.deadline_ms
        await held.release()


async def test_a_cancelled_taking_leaves_nothing(redis_url: str, nodes: list[RedisServer]) -> None:
    """Cancelled while two nodes have granted it and their replies are on the way."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(ByteProxy(node.port)) for node in nodes]
        locks = await stack.enter_async_context(locking(redis_url, urls=[proxy.url for proxy in proxies]))
        await (await take(locks)).release()
        for proxy in proxies:
            proxy.delay_s = 0.05
        taking = asyncio.create_task(take(locks))
        await until(lambda: sum(on(node, "holder") is not None for node in nodes) >= 2)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await until(lambda: not any(on(node, "holder") for node in nodes), 1)


# --- the start --------------------------------------------------------------------------------------------------------


async def test_an_even_number_is_refused(redis_url: str, nodes: list[RedisServer]) -> None:
    async with connected(redis_url) as redis:
        with pytest.raises(ValueError, match="odd"):
            Quorum([redis, redis], LockConfig("pod-a"), Errands())


async def test_a_url_that_is_none_is_told_at_the_start(redis_url: str) -> None:
    with pytest.raises(SettingsError, match="AGENTRT_LOCK_REDIS_URLS"):
        async with locking(redis_url, urls=["http://here", *["redis://127.0.0.1:1"] * 2]):
            pass


async def test_a_pod_starts_though_a_lock_node_is_away(redis_url: str, nodes: list[RedisServer]) -> None:
    nodes[0].stop()
    async with locking(redis_url, urls=urls(nodes)) as locks:
        await (await take(locks)).release()
