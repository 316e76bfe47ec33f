"""The queue: who is taken next, what becomes of entries whose taker dies, and of runs that were given up."""

from __future__ import annotations

import orjson
import pytest
import redis as redis_py

from agentrt.store.begin import Busy, Ended, Waiting
from agentrt.store.connection import Redis
from agentrt.store.keys import QueueKeys, lease_member, new_id, parse_lease_member
from agentrt.store.ownership import Owner
from agentrt.store.queue import DeadLetter, Urgency
from tests.harness.redis_server import RedisServer
from tests.store.stage import Store, again, connected, dump, ending, message, new_session

KEYS = QueueKeys()


def entry(tenant: str = "acme") -> bytes:
    return lease_member(new_session(tenant), new_id(), new_id())


def tenant_of(member: bytes) -> str:
    return parse_lease_member(member)[0]


async def take_all(store: Store, batch: int = 7) -> list[bytes]:
    taken: list[bytes] = []
    while more := await store.queue.take(batch, new_id()):
        taken += more
    return taken


async def fill(store: Store, tenant: str, count: int, urgency: Urgency = Urgency.BACKGROUND) -> list[bytes]:
    members = [entry(tenant) for _ in range(count)]
    for member in members:
        await store.queue.enqueue(member, urgency)
    return members


# --- order ------------------------------------------------------------------------------------------------------------


async def test_first_in_first_out_within_a_tenant(store: Store) -> None:
    members = await fill(store, "acme", 20)
    assert await take_all(store) == members


async def test_classes(store: Store) -> None:
    """Recovered ones first, then those a client waits for, then the background, whenever they came."""
    background = (await fill(store, "acme", 1, Urgency.BACKGROUND))[0]
    interactive = (await fill(store, "acme", 1, Urgency.INTERACTIVE))[0]
    recovered = (await fill(store, "acme", 1, Urgency.RECOVERED))[0]
    assert await take_all(store) == [recovered, interactive, background]


async def test_a_burst_of_10_000_delays_another_tenant_by_a_few(redis: Redis, outside: redis_py.Redis) -> None:
    """Whether the burst is fresh or half worked off: a single run of somebody else is among the next three."""
    store = Store(redis)
    await fill(store, "burst", 10_000)
    for number in range(3):
        single = (await fill(store, f"single-{number}", 1))[0]
        assert single in await store.queue.take(3, new_id())
        for _ in range(10):
            await store.queue.take(100, new_id())
    assert outside.zcard(KEYS.ready) == 10_000 - 3 * 2 - 3_000


async def test_two_bursts_share(store: Store) -> None:
    """A tenant that came later does not wait for the earlier one's burst, nor starve it."""
    await fill(store, "early", 100)
    assert len(await store.queue.take(30, new_id())) == 30
    await fill(store, "late", 40)
    taken = [tenant_of(member) for member in await take_all(store)][:60]
    assert 25 <= taken.count("late") <= 35


async def test_a_burst_of_one_class_costs_nothing_in_another(store: Store) -> None:
    """Who has much in the background is served like everybody else where clients wait."""
    await fill(store, "acme", 500, Urgency.BACKGROUND)
    await fill(store, "other", 5, Urgency.INTERACTIVE)
    mine = (await fill(store, "acme", 1, Urgency.INTERACTIVE))[0]
    assert mine in await store.queue.take(2, new_id())


async def test_tags_go_with_the_entries(store: Store, outside: redis_py.Redis) -> None:
    """The hash of tags holds tenants that wait, and nothing once nobody does."""
    for number in range(50):
        await fill(store, f"tenant-{number}", 2)
    await store.queue.take(98, new_id())
    assert outside.hlen(KEYS.tags) <= 1 + 2
    await take_all(store)
    assert outside.exists(KEYS.tags, KEYS.ready, KEYS.since) == 0


# --- entries and leases -----------------------------------------------------------------------------------------------


async def test_a_lease_becomes_an_entry_and_a_lease_again(store: Store, outside: redis_py.Redis) -> None:
    member = entry()
    await store.leases.entering(member)
    await store.queue.enqueue(member, Urgency.RECOVERED)
    await store.queue.enqueue(member, Urgency.BACKGROUND)  # its second sending changes nothing
    assert outside.zscore(KEYS.leases, member) is None
    assert outside.zcard(KEYS.ready) == 1
    assert await store.leases.left_ms(member) is None
    assert await store.queue.take(5, new_id()) == [member]
    left_ms = await store.leases.left_ms(member)
    assert left_ms is not None and 9_000 < left_ms <= 10_000
    assert outside.zcard(KEYS.ready) == outside.zcard(KEYS.since) == 0


async def test_a_taker_that_dies(store: Store, outside: redis_py.Redis) -> None:
    """What it took comes back when the lease that it got with it has run out."""
    member = (await fill(store, "acme", 1))[0]
    assert await store.queue.take(1, new_id()) == [member]
    assert await store.queue.sweep(10) == (0, 0)
    outside.zadd(KEYS.leases, {member: 1})
    assert await store.queue.sweep(10) == (1, 1)
    assert await store.queue.take(1, new_id()) == [member]


async def test_a_sweep_is_bounded_and_ordered_by_time(store: Store, outside: redis_py.Redis) -> None:
    members = [entry() for _ in range(25)]
    outside.zadd(KEYS.leases, {member: number + 1 for number, member in enumerate(members)})
    living = entry()
    await store.leases.entering(living)
    assert await store.queue.sweep(10) == (10, 10)
    assert await store.queue.sweep(100) == (15, 25)
    assert await store.queue.sweep(100) == (0, 25)
    assert await take_all(store) == members
    assert outside.zscore(KEYS.leases, living) is not None


async def test_a_late_heartbeat_takes_its_run_back(store: Store, outside: redis_py.Redis) -> None:
    """As long as nobody has taken it; afterwards it is told that it is missing."""
    late, gone = entry(), entry()
    for member in (late, gone):
        await store.queue.enqueue(member, Urgency.RECOVERED)
    await store.leases.renew([late])
    assert outside.zscore(KEYS.ready, late) is None and outside.zscore(KEYS.since, late) is None
    assert outside.zscore(KEYS.leases, late) is not None
    assert await store.queue.take(5, new_id()) == [gone]
    outside.zrem(KEYS.leases, gone)
    assert await store.leases.renew([late, gone]) == [gone]


async def test_the_same_take_again(redis: Redis, outside: redis_py.Redis) -> None:
    """By its op token, for each pod; a new one goes on behind it."""
    a, b = Store(redis, pod="pod-a"), Store(redis, pod="pod-b")
    members = await fill(a, "acme", 6)
    first, second = new_id(), new_id()
    assert await a.queue.take(2, first) == members[:2]
    assert await b.queue.take(2, second) == members[2:4]
    assert await a.queue.take(2, first) == members[:2]
    assert await b.queue.take(2, second) == members[2:4]
    assert await a.queue.take(2, new_id()) == members[4:]
    assert 0 < outside.ttl(KEYS.takes) <= 60


async def test_the_takes_of_pods_that_went(redis: Redis, outside: redis_py.Redis) -> None:
    """However busy the queue is, and however many names its pods have had: a new pod's first take drops the old."""
    living = Store(redis, pod="living")
    await fill(living, "acme", 3)
    await living.queue.take(1, new_id())
    op, members, ms = orjson.loads(outside.hget(KEYS.takes, "living") or b"")
    for number in range(5):
        outside.hset(KEYS.takes, f"gone-{number}", orjson.dumps([op, members, ms - 61_000]))
    outside.hset(KEYS.takes, "older-release", orjson.dumps([op, members]))
    await living.queue.take(1, new_id())
    assert outside.hlen(KEYS.takes) == 7
    await Store(redis, pod="new").queue.take(1, new_id())
    assert set(outside.hkeys(KEYS.takes)) == {b"living", b"new"}


async def test_depth(store: Store, outside: redis_py.Redis) -> None:
    assert (await store.queue.depth()).waiting == 0
    members = await fill(store, "acme", 3)
    outside.zincrby(KEYS.since, -5_000, members[1])
    depth = await store.queue.depth()
    assert (depth.waiting, depth.dead) == (3, 0)
    assert 5 <= depth.oldest_s < 7


@pytest.mark.parametrize("waiting", [0, 1])
async def test_only_the_first_is_announced(store: Store, outside: redis_py.Redis, waiting: int) -> None:
    """Where others wait already, no pod has room, or one is on its way to them."""
    await fill(store, "acme", waiting)
    with outside.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(KEYS.channel)
        heard.get_message(timeout=1)
        await fill(store, "acme", 1)
        assert (heard.get_message(timeout=0.3) is not None) == (waiting == 0)


async def test_out_of_memory(own_server: RedisServer) -> None:
    """Runs under way are found and handed over when Redis refuses new data."""
    async with connected(own_server.url) as redis:
        store = Store(redis)
        owned = await store.own(message(new_session()))
        await store.leases.entering(owned.lease)
        with own_server.client() as client:
            client.config_set("maxmemory", "1")
            await store.sessions.hand_over(owned)
            await store.queue.enqueue(owned.lease, Urgency.RECOVERED)
            assert await store.queue.take(1, new_id()) == [owned.lease]
            await store.leases.renew([owned.lease])
            await store.leases.park(owned.lease, 1)
            assert await store.queue.sweep(10) == (1, 1)
            client.config_set("maxmemory", "0")


# --- hand-overs, waiters, dead letters --------------------------------------------------------------------------------


async def test_a_hand_over_is_no_attempt(store: Store) -> None:
    dead = await store.own(message(new_session()))
    second = await store.claim(dead)
    assert second is not None and second.tries == 2
    await store.sessions.hand_over(second)
    await store.sessions.hand_over(second)
    third = await store.claim(second)
    assert third is not None
    assert (third.attempt, third.tries) == (3, 2)


async def test_what_its_sender_asks_for_anew_counts_from_one(store: Store) -> None:
    """A run that failed for a while, and was sent again each time, is not near its dead letter."""
    want = message(new_session(), by_key=True)
    for number in range(5):
        owned = await store.own(again(want))
        assert (owned.attempt, owned.tries) == (number + 1, 1)
        await store.sessions.commit(owned, ending(status="failed", retry=True))
    owned = await store.own(again(want))
    claimed = await store.claim(owned)
    assert claimed is not None and claimed.tries == 2


async def test_a_queued_run_shows_as_waiting_and_is_joined(store: Store, outside: redis_py.Redis) -> None:
    want = message(new_session(), by_key=True)
    owned = await store.own(want)
    await store.sessions.hand_over(owned, "waiting")
    assert outside.hget(owned.run.hash, "status") == b"waiting"
    assert type(await store.begin(again(want))).__name__ == "Joined"
    assert isinstance(await store.begin(message(want.session, policy="reject")), Busy)
    claimed = await store.claim(owned)
    assert claimed is not None and claimed.tries == 1
    assert outside.hget(owned.run.hash, "status") == b"running"


async def test_a_place_in_line_is_not_claimed_before_its_turn(store: Store, outside: redis_py.Redis) -> None:
    """Found by its lease, it waits on; granted, it is claimed; with its place given up, it is gone."""
    owner = await store.own(message(new_session()))
    want = message(owner.session)
    assert isinstance(await store.begin(want), Waiting)
    stale = Owner(want.run, want.token, "pod-of-the-dead")
    found = await store.sessions.claim(want.session, stale, new_id())
    assert isinstance(found, Waiting) and found.live.run == owner.run.id
    assert dump(outside, owner.session)["owner"] == owner.token
    await store.sessions.commit(owner, ending(b"a"))
    claimed = await store.sessions.claim(want.session, stale, new_id())
    assert claimed is not None and not isinstance(claimed, Waiting)
    leaving = message(owner.session)
    assert isinstance(await store.begin(leaving), Waiting)
    await store.sessions.leave(leaving.session, leaving.run, leaving.token, 1_000)
    assert await store.sessions.claim(leaving.session, Owner(leaving.run, leaving.token, ""), new_id()) is None


async def test_dead_letters(store: Store) -> None:
    first = DeadLetter("acme/s/r", "3 attempts ended without a result", "a", 3, "pod", 2)
    second = DeadLetter("acme/s/q", "other", "a", 3, "pod", 1)
    for letter in (first, second, first):
        await store.queue.bury(letter)
    await store.queue.bury(DeadLetter("acme/s/r", "a later reason", "a", 4, "pod", 3))
    assert await store.queue.dead() == [second, first]
    assert (await store.queue.depth()).dead == 2
    assert await store.queue.unbury("acme/s/r")
    assert not await store.queue.unbury("acme/s/r")
    assert await store.queue.unbury("acme/s/q")


async def test_only_a_failed_run_is_revived(store: Store) -> None:
    want = message(new_session(), by_key=True)
    await store.own(want)
    assert await store.sessions.revive(want.session, want.run) == "running"
    assert await store.sessions.revive(want.session, new_id()) == "missing"


async def test_a_failed_run_is_revived(store: Store) -> None:
    want = message(new_session(), by_key=True)
    owned = await store.own(want)
    second = await store.claim(owned)
    assert second is not None
    await store.sessions.commit(second, ending(status="failed"))
    assert await store.begin(again(want)) == Ended(want.run)
    revived = await store.sessions.revive(want.session, want.run)
    assert not isinstance(revived, str)
    assert (revived.run, revived.input, revived.fingerprint) == (want.run, want.input, want.fingerprint)
    third = await store.own(revived)
    assert (third.attempt, third.tries) == (3, 1)
