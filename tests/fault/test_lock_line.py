"""Named locks on one Redis that something goes wrong with: rows 13, 15 to 18, 21 of docs/matrix.md."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import orjson
import pytest
import redis as redis_py

from agentrt.clock import boottime_ms
from agentrt.errors import LockLost, LockTimeout
from agentrt.store.keys import LockKeys, new_id
from agentrt.store.locks import Held, Locks
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer
from tests.store.stage import locking, until

NAME = "order:4711"
KEY = LockKeys("acme", NAME)


@pytest.fixture
def outside(redis_server: RedisServer, redis_url: str) -> Iterator[redis_py.Redis]:
    with redis_server.client() as client:
        yield client


async def take(locks: Locks, wait_s: float = 5, token: str = "") -> Held:
    return await locks.acquire("acme", NAME, token or new_id(), wait_s)


def line(outside: redis_py.Redis) -> list[str]:
    """The tokens that wait."""
    text = outside.hget(KEY.hash, "line")
    return [entry[0] for entry in orjson.loads(text)] if text else []


async def granted_after(held: Held, waiter: asyncio.Task[Held]) -> float:
    """Seconds from giving a lock back until the waiter has it."""
    began = time.monotonic()
    await held.release()
    heir = await waiter
    took_s = time.monotonic() - began
    await heir.release()
    return took_s


# --- 13: the key is deleted under the holder --------------------------------------------------------------------------


async def test_a_deleted_key_is_noticed_by_the_next_renewal(redis_url: str, outside: redis_py.Redis) -> None:
    """Within a third of the TTL the holder is told and its block cancelled (10.2 s of a TTL of 30)."""
    lock_ms = 1_500
    async with locking(redis_url, lock_ms=lock_ms) as locks:
        with pytest.raises(LockLost) as caught:
            async with asyncio.timeout(5), locks.hold("acme", NAME, new_id(), 1):
                deleted = time.monotonic()
                outside.delete(KEY.hash)
                await asyncio.Event().wait()
        assert time.monotonic() - deleted <= lock_ms / 3000 + 0.2
        assert caught.value.reason == "taken"


async def test_a_redis_that_hangs_costs_the_lock_before_its_deadline() -> None:
    """No answer to any renewal: the holder stops by itself, a margin before others may have the lock."""
    with RedisServer() as server:
        async with locking(server.url, lock_ms=1_500) as locks:
            held = await take(locks)
            server.signal(signal.SIGSTOP)
            try:
                await asyncio.wait_for(held.lost.wait(), 5)
                lost_ms = boottime_ms()
            finally:
                server.signal(signal.SIGCONT)
            assert held.why == "deadline"
            assert held.deadline_ms - 100 - 100 <= lost_ms < held.deadline_ms
            await held.release()


# --- 15: cancelled while it is given back -----------------------------------------------------------------------------


async def test_a_release_that_is_cancelled_frees_the_lock(redis_server: RedisServer, redis_url: str) -> None:
    """Its bytes were lost with the connection, and nobody waits for it any more: it is sent again all the same."""
    async with ByteProxy(redis_server.port) as proxy, AsyncExitStack() as stack:
        locks = await stack.enter_async_context(locking(proxy.url))
        others = await stack.enter_async_context(locking(redis_url, pod="locks-b"))
        held = await take(locks)
        proxy.blackhole = True
        releasing = asyncio.create_task(held.release())
        await asyncio.sleep(0)
        releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
        with pytest.raises(LockTimeout):
            await take(others, 0)
        proxy.blackhole = False
        proxy.cut()
        await (await take(others, 1)).release()


@pytest.mark.parametrize("yields", range(1, 7))
async def test_whenever_a_release_is_cancelled(redis_url: str, yields: int) -> None:
    async with locking(redis_url) as locks, locking(redis_url, pod="locks-b") as others:
        for _ in range(10):
            releasing = asyncio.create_task((await take(locks)).release())
            for _ in range(yields):
                await asyncio.sleep(0)
            releasing.cancel()
            await asyncio.wait({releasing})
            await (await take(others, 1)).release()


# --- 16: a hundred waiters --------------------------------------------------------------------------------------------


async def test_a_hundred_waiters_take_turns(redis_url: str, outside: redis_py.Redis) -> None:
    """Two pods, fifty waiters each: first in, first out, one at a time, and nobody has two turns more than another."""
    turns = dict.fromkeys(range(100), 0)
    order: list[str] = []
    fences: list[int] = []
    inside = 0
    spread = 0

    async def work(locks: Locks, number: int, first_token: str) -> None:
        nonlocal inside, spread
        for turn in range(5):
            token = first_token if turn == 0 else new_id()
            async with locks.hold("acme", NAME, token, 60) as held:
                inside += 1
                assert inside == 1
                order.append(token)
                fences.append(held.fence)
                turns[number] += 1
                spread = max(spread, max(turns.values()) - min(turns.values()))
                await asyncio.sleep(0)
                inside -= 1

    async with locking(redis_url) as one, locking(redis_url, pod="locks-b") as other:
        held = await take(one)
        working = [asyncio.create_task(work((one, other)[n % 2], n, new_id())) for n in range(100)]
        await until(lambda: len(line(outside)) == 100)
        arrived = line(outside)
        await held.release()
        await asyncio.gather(*working)
    assert order[:100] == arrived
    assert set(turns.values()) == {5}
    assert spread <= 2
    assert fences == sorted(set(fences))


# --- 17: no wake-up arrives -------------------------------------------------------------------------------------------


async def test_the_poll_covers_lost_wake_ups(
    redis_server: RedisServer, redis_url: str, outside: redis_py.Redis
) -> None:
    """The subscription is dead and does not know it: the waiter has the lock within 1.1 s all the same."""
    async with ByteProxy(redis_server.port) as proxy, AsyncExitStack() as stack:
        locks = await stack.enter_async_context(locking(redis_url))
        deaf = await stack.enter_async_context(locking(redis_url, pod="locks-b", notices_url=proxy.url))
        proxy.blackhole = True
        for _ in range(2):
            held = await take(locks)
            waiter = asyncio.create_task(take(deaf))
            await until(lambda: len(line(outside)) == 1)
            took_s = await granted_after(held, waiter)
            assert took_s <= 1.1
        assert took_s > 0.5, "it was woken: this proves nothing"


# --- 18: the next in line is dead -------------------------------------------------------------------------------------


@contextmanager
def doomed(server: RedisServer, token: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the line."""
    command = [sys.executable, "-m", "tests.harness.waiter", server.url, "acme", NAME, token]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_dead_waiter_is_passed_over(redis_server: RedisServer, redis_url: str, outside: redis_py.Redis) -> None:
    """Killed just before its turn: it is handed the lock for two seconds, and then the one behind it has it."""
    token = new_id()
    async with locking(redis_url, pod="locks-b") as locks:
        held = await take(locks)
        with doomed(redis_server, token) as process:
            await until(lambda: line(outside) == [token])
            waiter = asyncio.create_task(take(locks, 20))
            await until(lambda: len(line(outside)) == 2)
            process.kill()
            process.wait()
            took_s = await granted_after(held, waiter)
        assert took_s <= 2.2


async def test_a_waiter_that_is_dead_for_long_costs_nothing(
    redis_server: RedisServer, redis_url: str, outside: redis_py.Redis
) -> None:
    """It has not asked for two polls: it is not handed the lock at all."""
    token = new_id()
    async with locking(redis_url, pod="locks-b") as locks:
        held = await take(locks)
        with doomed(redis_server, token) as process:
            await until(lambda: line(outside) == [token])
            process.kill()
            process.wait()
        waiter = asyncio.create_task(take(locks, 20))
        await until(lambda: len(line(outside)) == 2)
        await until(lambda: presence_ms(outside) > 2_050)  # the script counts whole milliseconds
        assert await granted_after(held, waiter) <= 0.2


def presence_ms(outside: redis_py.Redis) -> float:
    """How long ago the first in line asked."""
    seconds, micros = outside.time()
    return seconds * 1000 + micros / 1000 - orjson.loads(outside.hget(KEY.hash, "line") or b"")[0][2]


async def test_a_dead_holder_is_followed_when_its_time_is_up(
    redis_server: RedisServer, redis_url: str, outside: redis_py.Redis
) -> None:
    """Nobody releases: the waiter knows when the holder's time runs out, and asks then."""
    token = new_id()
    with doomed(redis_server, token) as process:
        await until(lambda: outside.hget(KEY.hash, "holder") == token.encode())
        process.kill()
        process.wait()
    seconds, micros = outside.time()
    outside.hset(KEY.hash, "until", seconds * 1000 + micros // 1000 + 400)
    async with locking(redis_url) as locks:
        began = time.monotonic()
        await (await take(locks)).release()
        assert 0.3 <= time.monotonic() - began <= 0.6


# --- 21: the pod's clock jumps ----------------------------------------------------------------------------------------


@contextmanager
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """A way to make this process' wall clock jump, however it is read in Python."""
    offset_s = 0.0
    real, real_ns, real_get = time.time, time.time_ns, time.clock_gettime

    def jump(by_s: float) -> None:
        nonlocal offset_s
        offset_s += by_s

    def clock_gettime(clock: int) -> float:
        return real_get(clock) + (offset_s if clock == time.CLOCK_REALTIME else 0)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + offset_s)
        patch.setattr(time, "time_ns", lambda: real_ns() + int(offset_s * 1e9))
        patch.setattr(time, "clock_gettime", clock_gettime)
        yield jump


@pytest.mark.parametrize("by_s", [60, -60])
async def test_a_jump_of_the_wall_clock_changes_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    """Neither is the lock lost, nor does it seem to last longer; and while it is held nobody else gets it."""
    with wall_clock(monkeypatch) as jump:
        async with locking(redis_url, lock_ms=600) as locks, locking(redis_url, pod="locks-b") as others:
            held = await take(locks)
            jump(by_s)
            assert 0 < held.left_ms <= 600
            with pytest.raises(LockTimeout):
                await take(others, 1.3)
            held.check()
            assert 0 < held.left_ms <= 600
            await held.release()


@pytest.mark.parametrize("by_s", [60, -60])
async def test_negative_control_a_lock_on_the_wall_clock(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    """The same lock with the wrong clock is lost, or believed in for a minute too long."""
    with wall_clock(monkeypatch) as jump:
        async with locking(redis_url, lock_ms=600, clock_ms=lambda: time.time() * 1000) as locks:
            held = await take(locks)
            jump(by_s)
            assert not 0 < held.left_ms <= 600
            await held.release()


async def test_a_pod_that_slept_finds_its_lock_lost(redis_url: str) -> None:
    """The boot-time clock went on while the event loop's stood still: noticed within a second of waking, not at the
    deadline of a timer."""
    slept_ms = 0.0
    async with locking(redis_url, clock_ms=lambda: boottime_ms() + slept_ms) as locks:
        held = await take(locks)
        slept_ms = 60_000
        async with asyncio.timeout(1.2):
            await held.lost.wait()
        assert held.why == "deadline"
        await held.release()
