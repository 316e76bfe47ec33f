"""What replicas must have before it counts: WAIT behind the scripts, and what a fail-over forgets without it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentrt.errors import NotAcknowledged, OutcomeUnknown, OwnershipLost, StoreUnavailable
from agentrt.store.connection import Redis
from agentrt.store.journal import Batch, read_effects
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.harness.proxy import ByteProxy
from tests.harness.redis_server import RedisServer, valkey
from tests.store.stage import Store, connected, ending, message, new_session, planned, until


class Pair:
    """A master, and a replica behind a proxy."""

    def __init__(self, master: RedisServer, replica: RedisServer, link: ByteProxy) -> None:
        self.master = master
        self.replica = replica
        self.link = link

    async def in_step(self) -> None:
        """Wait until the replica has everything: what is written last, and so what was written before."""
        with self.master.client() as client:
            client.set("in step", "yes", ex=60)
            await until(lambda: client.execute_command("WAIT", 1, 100) == 1, 20)

    def has(self, key: bytes) -> bool:
        """Whether the replica knows a key."""
        with self.replica.client() as client:
            return bool(client.exists(key))


@pytest.fixture(params=["redis", "valkey"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Until 7.2 WAIT counts what a connection has seen, from then on what it has written."""
    program = valkey() if request.param == "valkey" else None
    with RedisServer("--repl-diskless-sync-delay", "0", "--repl-timeout", "60", program=program) as master:
        async with ByteProxy(master.port) as link:
            with RedisServer("--replicaof", "127.0.0.1", str(link.port), program=program) as replica:
                pair = Pair(master, replica, link)
                with master.client() as client:
                    await until(lambda: client.info("replication")["connected_slaves"] == 1, 20)
                await pair.in_step()
                yield pair


@asynccontextmanager
async def waiting(pair: Pair, replicas: int = 1, **options: Any) -> AsyncIterator[Store]:
    async with connected(pair.master.url, wait_replicas=replicas, **{"wait_timeout_ms": 100, **options}) as redis:
        yield Store(redis, acknowledge=replicas > 0, acknowledge_turns=replicas > 0)


def intents(store: Store, owned: Owned) -> list[str]:
    """Keys of the effects that are intended now, as a claim would find them."""
    assert owned.record is not None
    return [key for key, (_, intent, _) in read_effects(owned.record["effects"]).items() if intent is not None]


async def test_what_is_acknowledged_is_on_the_replica(pair: Pair) -> None:
    """At the very moment that the caller hears of it, on a connection of its own."""
    async with waiting(pair) as store:
        for _ in range(20):
            want = message(new_session(), background=True)
            owned = await store.own(want)
            assert pair.has(want.session.hash)
            await store.journal.plan(owned, 0, b"{}", [(planned(owned), True)], Batch())
            await store.sessions.commit(owned, ending(b'{"id":"0"}'))
            assert pair.has(want.session.items)
        with pair.master.client() as client:
            commands = {one["cmd"] for one in client.client_list()}
        assert any(cmd.startswith("wait") for cmd in commands)


async def test_units_that_come_together_share_a_wait(pair: Pair) -> None:
    async with waiting(pair) as store:
        with pair.master.client() as client:
            client.config_resetstat()
            await asyncio.gather(*(store.own(message(new_session(), background=True)) for _ in range(100)))
            calls = client.info("commandstats")
        assert calls["cmdstat_evalsha"]["calls"] >= 100
        assert calls["cmdstat_wait"]["calls"] <= 5


async def test_what_waits_is_bounded_by_its_bytes(pair: Pair) -> None:
    """Big inputs that come together are sent a few at a time; only what is over the bound is refused."""
    big = b'["' + b"x" * (1 << 20) + b'"]'
    async with waiting(pair, wait_timeout_ms=5_000) as store:
        with pair.master.client() as client:
            client.config_resetstat()
            begun = (store.own(message(new_session(), background=True, input=big)) for _ in range(24))
            outcomes = await asyncio.gather(*begun, return_exceptions=True)
            waits = client.info("commandstats")["cmdstat_wait"]["calls"]
        owned = [one for one in outcomes if isinstance(one, Owned)]
        refused = [one for one in outcomes if isinstance(one, StoreUnavailable)]
        assert (len(owned), {one.reason for one in refused}) == (15, {"overloaded"})
        assert len(refused) == 9 and waits >= 5
        assert all(pair.has(one.session.hash) for one in owned)
        await store.own(message(new_session(), background=True, input=big))


async def test_a_lost_server_is_left_on_both_connections(pair: Pair) -> None:
    """Nothing is asked on the one that waits: it would notice that its server is frozen when a turn ends, and only then
    begin to count its time-out."""
    async with ByteProxy(pair.master.port) as way:
        options = {"wait_replicas": 1, "reply_timeout_s": 0.2, "resend_budget_s": 0.3}
        async with connected(f"redis://127.0.0.1:{way.port}/0", **options) as redis:
            store = Store(redis, acknowledge=True)
            await store.own(message(new_session(), background=True))
            assert redis.stats.connects == 2
            way.blackhole = True
            assert await store.reason()
            way.blackhole = False
            await until(lambda: redis.stats.connects == 4)
            assert pair.has((await store.own(message(new_session(), background=True))).session.hash)


async def test_a_cut_replica_acknowledges_nothing(pair: Pair) -> None:
    """Every way of waiting says so: begin and plan, and a commit that can be sent again until the replica is back."""
    async with waiting(pair) as store:
        owned = await store.own(message(new_session()))
        pair.link.blackhole = True
        with pytest.raises(NotAcknowledged):
            await store.begin(message(new_session(), background=True))
        call = planned(owned)
        at_most_once = type(call)(**{**{f: getattr(call, f) for f in call.__slots__}, "effect": "at_most_once"})
        with pytest.raises(NotAcknowledged):
            await store.journal.plan(owned, 0, b"{}", [(at_most_once, True)], Batch())
        with pytest.raises(NotAcknowledged):
            await store.journal.intend(owned, [call.key], acknowledge=True)
        await store.journal.intend(owned, [call.key])  # a renewal waits for nobody
        with pytest.raises(StoreUnavailable, match="too few replicas") as caught:
            await store.sessions.commit(owned, ending())
        assert not isinstance(caught.value, NotAcknowledged | OutcomeUnknown)
        pair.link.blackhole = False
        pair.link.cut()
        await pair.in_step()
        assert await store.sessions.commit(owned, ending()) == 1
        assert pair.has(owned.session.hash)


async def test_the_end_of_a_turn_is_shown_to_nobody_before_replicas_have_it(pair: Pair) -> None:
    """Not to who follows the run, and not to who sends its message again: to them it is acknowledged as well."""
    async with waiting(pair) as store:
        owned = await store.own(message(new_session()))
        session, run = owned.session, owned.run.id
        pair.link.blackhole = True
        with pytest.raises(StoreUnavailable):
            await store.sessions.commit(owned, ending())
        async with waiting(pair) as other:
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await other.events.read(session, run, -1)
            pair.link.blackhole = False
            pair.link.cut()
            await pair.in_step()
            state, _ = await other.events.read(session, run, -1)
        async with waiting(pair, 0) as hasty:  # the control
            pair.link.blackhole = True
            assert (await hasty.events.read(session, run, -1))[0] == state
        assert state is not None and state.status == "completed"


async def test_sent_again_it_is_not_acknowledged_by_having_written_nothing(pair: Pair) -> None:
    """The trap of WAIT: on a connection that wrote nothing it says yes at once. The script's second sending finds its
    work done and writes nothing, on a connection that is new."""
    session = new_session()
    want = message(session, background=True)
    async with waiting(pair) as store:
        pair.link.blackhole = True
        with pytest.raises(NotAcknowledged):
            await store.begin(want)
    async with waiting(pair) as store:
        with pytest.raises(NotAcknowledged):
            await store.begin(want)
    async with waiting(pair) as store:
        with pytest.raises(NotAcknowledged):  # another pod, to which the client came with it: it joins the run
            await store.begin(replace(want, token=new_id()))


async def test_an_intent_that_nobody_acknowledged_is_taken_back(store_pair: tuple[Store, Owned, str]) -> None:
    store, owned, key = store_pair
    claimed = await store.claim(owned)
    assert claimed is not None
    assert intents(store, claimed) == [key]
    await store.journal.intend(claimed, [key])
    await store.journal.unintend(claimed, [key])
    await store.journal.unintend(claimed, [key])
    with pytest.raises(OwnershipLost):
        await store.journal.unintend(owned, [key])
    after = await store.claim(claimed)
    assert after is not None
    assert intents(store, after) == []


async def test_the_intent_of_another_owner_stays(store_pair: tuple[Store, Owned, str]) -> None:
    """A dead owner's call may have left; taking back is for one's own."""
    store, owned, key = store_pair
    claimed = await store.claim(owned)
    assert claimed is not None
    await store.journal.unintend(claimed, [key])
    after = await store.claim(claimed)
    assert after is not None
    assert intents(store, after) == [key]


@pytest.fixture
async def store_pair(redis: Redis) -> tuple[Store, Owned, str]:
    """An owner with one intended effect."""
    store = Store(redis)
    owned = await store.own(message(new_session()))
    call = planned(owned)
    await store.journal.plan(owned, 0, b"{}", [(call, True)], Batch())
    return store, owned, call.key


async def turns(store: Store, count: int) -> list[bytes]:
    """Keys of the sessions whose turn was acknowledged, of `count` turns at once."""

    async def turn() -> bytes | None:
        owned = await store.own(message(new_session()))
        try:
            await store.sessions.commit(owned, ending(b'{"id":"0"}'))
        except StoreUnavailable:
            return None
        return owned.session.items

    return [key for key in await asyncio.gather(*(turn() for _ in range(count))) if key is not None]


async def lost_with(pair: Pair, replicas: int) -> tuple[int, int]:
    """(acknowledged, lost) turns when the link to the replica breaks before the master does."""
    async with waiting(pair, replicas) as store:
        acknowledged = await turns(store, 50)
        await pair.in_step()
        pair.link.blackhole = True
        acknowledged += await turns(store, 50)
        pair.master.signal(signal.SIGKILL)
    with pair.replica.client() as client:
        client.replicaof("no", "one")
    return len(acknowledged), sum(not pair.has(key) for key in acknowledged)


async def test_no_acknowledged_turn_is_lost_with_its_master(pair: Pair) -> None:
    assert await lost_with(pair, 1) == (50, 0)


async def test_without_waiting_they_are(pair: Pair) -> None:
    """The control: the same, acknowledged by the master alone."""
    assert await lost_with(pair, 0) == (100, 50)
