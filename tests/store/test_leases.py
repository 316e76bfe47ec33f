"""The one timer: entering, renewing, watching and ending leases. Time passes by setting scores, not by sleeping."""

from __future__ import annotations

import pytest
import redis as redis_py

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys, lease_member, new_id, parse_lease_member
from tests.store.stage import Store, new_session

LEASES = QueueKeys().leases


def member() -> bytes:
    return lease_member(new_session(), new_id(), new_id())


def now_ms(outside: redis_py.Redis) -> int:
    seconds, micros = outside.time()
    return int(seconds) * 1000 + int(micros) // 1000


def left_ms(outside: redis_py.Redis, lease: bytes) -> float:
    """How long a lease still lasts, as seen from outside."""
    score = outside.zscore(LEASES, lease)
    assert score is not None, "no such lease"
    return score - now_ms(outside)


async def test_enter(redis: Redis, outside: redis_py.Redis) -> None:
    """The deadline is the lease's length from now, by Redis' clock."""
    lease = member()
    status, deadline = (await Store(redis, lease_ms=5000).leases.entering(lease))[0]
    assert status == b"ok"
    assert int(deadline) == outside.zscore(LEASES, lease)
    assert 4000 < left_ms(outside, lease) <= 5000


async def test_entering_again_moves_the_deadline(store: Store, outside: redis_py.Redis) -> None:
    """One entry, whatever the number of sendings."""
    lease = member()
    await store.leases.entering(lease)
    outside.zadd(LEASES, {lease: 1})
    await store.leases.entering(lease)
    assert left_ms(outside, lease) > 9000
    assert outside.zcard(LEASES) == 1


async def test_leases_of_one_tick_leave_in_one_write(redis: Redis) -> None:
    """Lease first, session second, both in one write: what is sent before the await travels together."""
    store = Store(redis)
    await store.leases.entering(member())
    writes = redis.stats.writes
    sent = [store.leases.entering(member()) for _ in range(3)]
    await redis.execute(Unit(b"q:0").command("PING"))
    for one in sent:
        await one
    assert redis.stats.writes == writes + 1


async def test_renew_moves_and_reports_missing(store: Store, outside: redis_py.Redis) -> None:
    """All of the pod's leases move, also those that have just run out; one that somebody took is named, not made."""
    mine, late, taken = member(), member(), member()
    for lease in (mine, late, taken):
        await store.leases.entering(lease)
    outside.zadd(LEASES, {mine: now_ms(outside) + 1000, late: now_ms(outside) - 1000})
    outside.zrem(LEASES, taken)
    assert await store.leases.renew([mine, late, taken]) == [taken]
    assert left_ms(outside, mine) > 9000
    assert left_ms(outside, late) > 9000
    assert outside.zscore(LEASES, taken) is None


async def test_renewing_an_unmoved_lease_is_not_missing(store: Store) -> None:
    """Twice in one millisecond: the score does not change, and the lease is there all the same."""
    lease = member()
    await store.leases.entering(lease)
    for _ in range(200):
        assert await store.leases.renew([lease]) == []


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1234])
async def test_renew_in_portions(store: Store, outside: redis_py.Redis, count: int) -> None:
    """Any number of leases; no script moves more than 500 at once."""
    leases = [member() for _ in range(count)]
    if leases:
        outside.zadd(LEASES, dict.fromkeys(leases[1:], 1) | {leases[0]: 1})
        outside.zrem(LEASES, leases[-1])
    assert await store.leases.renew(leases) == leases[-1:]
    assert all(left_ms(outside, lease) > 8000 for lease in leases[:-1][::100])


async def test_end(store: Store, outside: redis_py.Redis) -> None:
    """Gone, and only that one; nobody waits for it, and a second time there is nothing to do."""
    ended, other = member(), member()
    for lease in (ended, other):
        await store.leases.entering(lease)
    store.leases.end(ended)
    store.leases.end(ended)
    assert await store.leases.renew([ended, other]) == [ended]
    assert outside.zrange(LEASES, 0, -1) == [other]


async def test_watch_a_live_lease(store: Store, outside: redis_py.Redis) -> None:
    """Looking does not prolong it."""
    lease = member()
    outside.zadd(LEASES, {lease: now_ms(outside) + 3000})
    assert 2000 < await store.leases.left_ms(lease) <= 3000
    assert left_ms(outside, lease) <= 3000


async def test_watch_enters_what_is_absent(store: Store, outside: redis_py.Redis) -> None:
    """An owner without a lease, as a crash leaves it, gets one and is found when that runs out."""
    lease = member()
    assert await store.leases.left_ms(lease) == 10_000
    assert 9000 < left_ms(outside, lease) <= 10_000
    session = parse_lease_member(outside.zrange(LEASES, 0, -1)[0])
    assert session == parse_lease_member(lease)


async def test_watch_an_expired_lease(store: Store, outside: redis_py.Redis) -> None:
    """Negative, and left as it is: to displace the owner is the claim's business."""
    lease = member()
    score = now_ms(outside) - 1500
    outside.zadd(LEASES, {lease: score})
    assert -2500 < await store.leases.left_ms(lease) <= -1500
    assert outside.zscore(LEASES, lease) == score
