"""Named locks on one Redis: who has it, who is next, how it is given back, how its holder learns of a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import redis as redis_py

from agentrt.clock import boottime_ms
from agentrt.errors import LockLost, LockTimeout, StoreUnavailable
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import LockKeys, new_id
from agentrt.store.locks import Held, Locks
from agentrt.telemetry import Telemetry
from tests.harness.redis_server import RedisServer
from tests.store.stage import connected, locking, until, without

NAME = "order:4711"
KEY = LockKeys("acme", NAME)


@pytest.fixture
async def locks(redis_url: str) -> AsyncIterator[Locks]:
    async with locking(redis_url) as locks:
        yield locks


@pytest.fixture
async def others(redis_url: str) -> AsyncIterator[Locks]:
    """Another pod."""
    async with locking(redis_url, pod="locks-b") as locks:
        yield locks


async def take(locks: Locks, wait_s: float = 5, name: str = NAME, tenant: str = "acme", token: str = "") -> Held:
    return await locks.acquire(tenant, name, token or new_id(), wait_s)


def line(outside: redis_py.Redis) -> list[str]:
    """The tokens that wait."""
    text = outside.hget(KEY.hash, "line")
    return [entry[0] for entry in orjson.loads(text)] if text else []


def asked(outside: redis_py.Redis) -> int:
    """When the first in line last asked, in ms."""
    return int(orjson.loads(outside.hget(KEY.hash, "line") or b"")[0][2])


def holder(outside: redis_py.Redis) -> bytes | None:
    return outside.hget(KEY.hash, "holder")


async def waiting(locks: Locks, outside: redis_py.Redis, **options: Any) -> asyncio.Task[Held]:
    """A waiter that is in the line by now."""
    token = new_id()
    task = asyncio.create_task(take(locks, token=token, **options))
    await until(lambda: token in line(outside))
    return task


# --- who has it -------------------------------------------------------------------------------------------------------


async def test_one_holder_and_then_the_next(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """The second pod gets it when the first gives it back, by a notice: long before its poll of a second."""
    first = await take(locks)
    second = await waiting(others, outside)
    assert not second.done()
    await first.release()
    async with asyncio.timeout(0.5):
        held = await second
    assert held.fence > first.fence
    await held.release()
    assert holder(outside) is None


async def test_other_names_and_other_tenants_do_not_wait(locks: Locks) -> None:
    for held in [await take(locks, 0), await take(locks, 0, name="order:4712"), await take(locks, 0, tenant="bolt")]:
        await held.release()


async def test_the_name_is_not_in_the_key(locks: Locks, outside: redis_py.Redis) -> None:
    """Whatever the arguments of a tool were: the key has their hash, and hash tag and tenant stay what they are."""
    held = await take(locks, name="}{../\ud800 \x00")
    (key,) = outside.keys("*")
    assert key.startswith(b"agentrt:{acme/lock:")
    assert len(key) == len("agentrt:{acme/lock:}") + 64
    await held.release()
    with pytest.raises(ValueError, match="tenant"):
        await take(locks, tenant="a/b")


async def test_a_short_token_is_refused(locks: Locks) -> None:
    with pytest.raises(ValueError, match="token"):
        await take(locks, token="guessable")


async def test_already_mine(locks: Locks, outside: redis_py.Redis) -> None:
    """The holder that asks again is still the holder, with the fence that it had."""
    token = new_id()
    first = await take(locks, token=token)
    again = await take(locks, 0, token=token)
    assert again.fence == first.fence
    await first.release()
    assert holder(outside) is None
    await again.release()


async def test_only_the_holder_gives_back(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """A second release, of a lock that is somebody else's by now, does nothing."""
    first = await take(locks)
    await first.release()
    second = await take(others)
    await first.release()
    with pytest.raises(LockTimeout):
        await take(locks, 0)
    second.check()
    await second.release()
    with pytest.raises(LockLost, match="released"):
        second.check()


# --- the fence --------------------------------------------------------------------------------------------------------


async def test_the_fence_grows_though_the_key_was_gone(locks: Locks, outside: redis_py.Redis) -> None:
    fences = []
    for _ in range(5):
        held = await take(locks)
        fences.append(held.fence)
        await held.release()
        outside.delete(KEY.hash)
    assert fences == sorted(set(fences))


async def test_the_fence_grows_from_what_was(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """Redis' clock was set back by a century: the previous fence counts, in an acquire and in a hand-on."""
    held = await take(locks)
    far = 5_000_000_000_000_001
    outside.hset(KEY.hash, "fence", far)
    second = await waiting(others, outside)
    await held.release()
    assert (await second).fence == far + 1
    await (await second).release()
    third = await take(locks)
    assert third.fence == far + 2
    await third.release()


# --- the line ---------------------------------------------------------------------------------------------------------


async def test_who_may_not_wait_gets_no_place(locks: Locks, outside: redis_py.Redis) -> None:
    held = await take(locks)
    with pytest.raises(LockTimeout):
        await take(locks, 0)
    assert line(outside) == []
    await held.release()


async def test_who_waited_long_enough_leaves_the_line(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    held = await take(locks)
    began_ms = boottime_ms()
    with pytest.raises(LockTimeout):
        await take(others, 0.15)
    assert 150 <= boottime_ms() - began_ms < 1_000
    await until(lambda: line(outside) == [])
    await held.release()
    assert holder(outside) is None


async def test_a_cancelled_waiter_leaves_the_line(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """And the one behind it is next, at once."""
    held = await take(locks)
    gone, patient = await waiting(others, outside), await waiting(others, outside)
    gone.cancel()
    await until(lambda: len(line(outside)) == 1)
    await held.release()
    async with asyncio.timeout(0.5):
        await (await patient).release()


async def test_who_waits_for_long_keeps_its_place(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """Its polls are its signs of life: after more than two it is still first, before one that came just now."""
    held = await take(locks)
    patient = await waiting(others, outside)
    came_ms = asked(outside)
    await until(lambda: asked(outside) > came_ms + 2_000)
    late = await waiting(locks, outside)
    await held.release()
    await asyncio.wait({patient, late}, return_when=asyncio.FIRST_COMPLETED)
    assert patient.done()
    assert not late.done()
    await (await patient).release()
    await (await late).release()


@pytest.mark.parametrize("yields", range(12))
async def test_cancelled_while_it_is_handed_on(
    locks: Locks, others: Locks, outside: redis_py.Redis, yields: int
) -> None:
    """Wherever the cancellation meets the grant, the lock is free or had by the one who got it, never nobody's."""
    held = await take(locks)
    waiter = await waiting(others, outside)
    releasing = asyncio.create_task(held.release())
    for _ in range(yields):
        await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait({waiter})
    await releasing
    if not waiter.cancelled():
        await waiter.result().release()
    async with asyncio.timeout(1):
        await (await take(locks)).release()


async def test_the_line_is_bounded(redis_url: str, outside: redis_py.Redis) -> None:
    """One too many is refused at once; those who died in the line do not fill it for ever."""
    async with locking(redis_url, line_max=2) as locks:
        held = await take(locks)
        first, second = await waiting(locks, outside), await waiting(locks, outside)
        async with asyncio.timeout(0.5):
            with pytest.raises(LockTimeout, match="too many"):
                await take(locks, 30)
        entries = orjson.loads(outside.hget(KEY.hash, "line") or b"")
        for entry in entries:
            entry[0], entry[2] = new_id(), 1  # others, who last asked long ago
        for waiter in (first, second):
            waiter.cancel()
        await until(lambda: line(outside) == [])
        outside.hset(KEY.hash, "line", orjson.dumps(entries))
        third = await waiting(locks, outside)
        assert len(line(outside)) == 1
        await held.release()
        await (await third).release()


async def test_two_who_want_two_in_opposite_order(locks: Locks, others: Locks, outside: redis_py.Redis) -> None:
    """Each has one and wants the other's: nobody waits for ever, nothing stays locked."""
    both = asyncio.Barrier(2)

    async def greedy(locks: Locks, one: str, other: str) -> bool:
        async with locks.hold("acme", one, new_id(), 1):
            await both.wait()
            try:
                async with locks.hold("acme", other, new_id(), 0.2):
                    return True
            except LockTimeout:
                return False

    async with asyncio.timeout(5):
        got = await asyncio.gather(greedy(locks, "a", "b"), greedy(others, "b", "a"))
    assert not all(got)
    for name in ("a", "b"):
        await (await take(locks, 0.5, name=name)).release()


# --- holding it -------------------------------------------------------------------------------------------------------


async def test_it_is_renewed_while_it_is_held(redis_url: str, others: Locks, outside: redis_py.Redis) -> None:
    """Held for four times its length, and nobody else got it."""
    async with locking(redis_url, lock_ms=400) as locks:
        held = await take(locks)
        first_deadline_ms = held.deadline_ms
        with pytest.raises(LockTimeout):
            await take(others, 1.6)
        assert not held.lost.is_set()
        assert held.deadline_ms > first_deadline_ms + 1_000
        held.check()
        await held.release()
        assert holder(outside) is None


async def test_a_lock_that_is_not_renewed_runs_out(redis_url: str, others: Locks) -> None:
    """The control of the test above, and the cap on a lock's life: nobody holds one for ever."""
    async with locking(redis_url, lock_ms=400, lifetime_s=0.0) as locks:
        held = await take(locks)
        async with asyncio.timeout(1):
            (other, _) = await asyncio.gather(take(others), held.lost.wait())
        assert held.why == "deadline"
        with pytest.raises(LockLost):
            held.check()
        await held.release()
        other.check()
        await other.release()


async def test_after_release_nothing_renews(redis_url: str, outside: redis_py.Redis) -> None:
    """No watchdog outlives its lock: Redis is not asked about it any more."""
    async with locking(redis_url, lock_ms=150) as locks:
        token = new_id()
        await (await take(locks, token=token)).release()
        outside.hset(KEY.hash, mapping={"holder": token, "until": 1})  # a renewal would have to see this
        before = outside.info("commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.sleep(0.15)
        assert outside.info("commandstats")["cmdstat_evalsha"]["calls"] == before


async def test_the_block_is_cancelled_when_the_lock_is_lost(redis_url: str, outside: redis_py.Redis) -> None:
    async with locking(redis_url, lock_ms=300) as locks:
        with pytest.raises(LockLost) as caught:
            async with asyncio.timeout(2), locks.hold("acme", NAME, new_id(), 1):
                outside.delete(KEY.hash)
                await asyncio.Event().wait()
        assert caught.value.reason == "taken"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_block_that_is_cancelled_by_others_is_just_cancelled(locks: Locks, outside: redis_py.Redis) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with locks.hold("acme", NAME, new_id(), 1):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: holder(outside) is None, 1)


async def test_a_block_that_fails_gives_the_lock_back(locks: Locks, outside: redis_py.Redis) -> None:
    with pytest.raises(ZeroDivisionError):
        async with locks.hold("acme", NAME, new_id(), 1):
            raise ZeroDivisionError
    assert holder(outside) is None


async def test_the_last_look_finds_a_lock_that_ran_out(redis_url: str) -> None:
    """The pod was paused, its timers have not run yet: `check` looks at the clock itself, and the block ends."""
    paused_ms = 0.0
    async with locking(redis_url, clock_ms=lambda: boottime_ms() + paused_ms) as locks:
        with pytest.raises(LockLost, match="deadline"):
            async with locks.hold("acme", NAME, new_id(), 1) as held:
                held.check()
                assert held.left_ms > 25_000
                paused_ms = 28_000
                held.check()
        assert held.lost.is_set()


async def test_what_is_counted(redis_url: str, outside: redis_py.Redis) -> None:
    """Waits by outcome, losses by reason."""
    telemetry = Telemetry()
    async with locking(redis_url, lock_ms=200, telemetry=telemetry) as locks:
        held = await take(locks)
        with pytest.raises(LockTimeout):
            await take(locks, 0)
        outside.delete(KEY.hash)
        await held.lost.wait()
        await held.release()
    text = telemetry.render()[0].decode()
    assert 'agentrt_locks_lost_total{reason="taken"} 1.0' in text
    assert 'agentrt_lock_wait_seconds_count{outcome="held"} 1.0' in text
    assert 'agentrt_lock_wait_seconds_count{outcome="timeout"} 1.0' in text


# --- when Redis refuses new data --------------------------------------------------------------------------------------


@pytest.fixture
async def strained(own_server: RedisServer) -> AsyncIterator[Redis]:
    """A Redis of the test's own that knows all scripts."""
    async with connected(own_server.url) as redis:
        with own_server.client() as client:
            for script in redis.scripts.values():
                client.script_load(script.source)
        yield redis


async def test_without_memory_only_newcomers_are_refused(strained: Redis, own_server: RedisServer) -> None:
    """Who holds goes on holding and gives back; who waits gets its turn."""
    with own_server.client() as admin:
        async with locking(own_server.url, lock_ms=400) as locks:
            held = await take(locks)
            waiter = await waiting(locks, admin)
            admin.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable) as caught:
                await take(locks, name="another")
            assert caught.value.reason == "oom"
            deadline_ms, asked_ms = held.deadline_ms, asked(admin)
            await until(lambda: held.deadline_ms > deadline_ms)
            await until(lambda: asked(admin) > asked_ms or waiter.done())
            await held.release()
            async with asyncio.timeout(0.5):
                heir = await waiter
            await heir.release()
            assert holder(admin) is None


@pytest.mark.parametrize("script", ["lock_renew", "lock_release"])
async def test_negative_control_an_hset_first(strained: Redis, own_server: RedisServer, script: str) -> None:
    """Without the HDEL in front the same script is refused: the test above does test its order."""
    lines = {
        "lock_renew": "get_through(lock)",
        "lock_release": "  redis.call('HDEL', lock, 'holder', 'until', 'line')",
    }
    broken = without(strained.scripts[script], lines[script])
    token, heir = new_id(), new_id()
    with own_server.client() as admin:
        admin.script_load(broken.source)
        for asking in (token, heir):
            unit = Unit(KEY.tag).call(
                strained.scripts["lock_acquire"], (KEY.hash,), token=asking, pod="p", lock_ms=9_000, line_max=1, ttl=60
            )
            await strained.execute(unit)
        admin.config_set("maxmemory", 1)
        argv = {"lock_renew": {"lock_ms": 1}, "lock_release": {}}[script]
        with pytest.raises(StoreUnavailable):
            await strained.execute(Unit(KEY.tag).call(broken, (KEY.hash,), token=token, ttl=60, **argv))
