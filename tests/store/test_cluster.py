"""Every script on a Cluster of three masters: none touches two slots, none a key that it was not given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import pytest
import redis as redis_py
from redis.crc import key_slot

from agentrt.errors import ScriptError, UserGone
from agentrt.records import SCHEMA_VERSION, Item
from agentrt.store.access import Access, KeyRecord, Quota, Quotas
from agentrt.store.address import Server
from agentrt.store.begin import Ended, Joined, Steered, Waiting
from agentrt.store.connection import Redis, Unit
from agentrt.store.copying import write_portion
from agentrt.store.doubts import Place, Resolution
from agentrt.store.jobs import Jobs
from agentrt.store.journal import Batch, Planned
from agentrt.store.keys import LockKeys, QueueKeys, SessionKeys, UserKeys, new_id
from agentrt.store.line import Line
from agentrt.store.nodes import _Cluster
from agentrt.store.ownership import Owned, StoreConfig
from agentrt.store.queue import DeadLetter, Urgency
from agentrt.store.quorum import Quorum
from agentrt.store.schema import Schema
from agentrt.store.scripts import Script, load_all
from agentrt.store.tenure import LockConfig
from agentrt.store.users import Pending, Turn, Users
from agentrt.tasks import Errands
from tests.harness.redis_server import RedisCluster, RedisServer
from tests.store.stage import (
    Store,
    again,
    connected,
    dump,
    ending,
    lease_of,
    message,
    new_session,
    old_header,
    outcome_of,
    planned,
    recorded,
    until,
)

T = TypeVar("T")

MASTERS = 3


def node_of(slot: bytes) -> int:
    """The number of the master that owns what a unit names."""
    return min(key_slot(slot) // (16384 // MASTERS), MASTERS - 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(MASTERS) as cluster:
        yield cluster


@pytest.fixture
def masters(cluster: RedisCluster) -> Iterator[list[redis_py.Redis]]:
    """Plain clients of the masters, which are empty."""
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in cluster.nodes]
        for client in clients:
            client.flushall()
            client.config_resetstat()
        yield clients


@pytest.fixture
async def routed(cluster: RedisCluster, masters: list[redis_py.Redis]) -> AsyncIterator[Redis]:
    async with connected(cluster.url) as routed:
        yield routed


@pytest.fixture
def store(routed: Redis) -> Store:
    return Store(routed)


# --- which script touched what ----------------------------------------------------------------------------------------


class Watcher:
    """Reads MONITOR of a master: the keys that each script was given, and those it touched."""

    WITHOUT_KEYS = frozenset({"TIME", "PUBLISH"})
    ALL_KEYS = frozenset({"UNLINK", "DEL"})

    def __init__(self, client: redis_py.Redis, names: dict[str, str]) -> None:
        self._client = client
        self._names = names
        self._monitor = client.monitor().__enter__()
        self.seen: set[str] = set()
        self.undeclared: list[tuple[str, str]] = []

    def read(self) -> Watcher:
        """Everything up to now."""
        marker = new_id()
        with redis_py.Redis(port=self._client.get_connection_kwargs()["port"]) as other:
            other.echo(marker)
        name, declared = "", set[str]()
        while True:
            heard = self._monitor.next_command()
            verb, *rest = heard["command"].split(" ")
            verb = verb.upper()
            if rest == [marker]:
                self._monitor.connection.disconnect()
                return self
            if heard["client_type"] == "lua":
                touched = [] if verb in self.WITHOUT_KEYS else rest if verb in self.ALL_KEYS else rest[:1]
                self.undeclared += [(name, key) for key in touched if key not in declared]
            elif verb == "EVALSHA":
                name = self._names.get(rest[0], rest[0])
                declared = set(rest[2 : 2 + int(rest[1])])
                self.seen.add(name)


def watch(masters: list[redis_py.Redis], scripts: dict[str, Script]) -> list[Watcher]:
    names = {script.sha: name for name, script in scripts.items()}
    return [Watcher(client, names) for client in masters]


# --- a conversation that needs every script ---------------------------------------------------------------------------


async def converse(store: Store, session: SessionKeys, client: redis_py.Redis) -> None:
    """Every script of the store at least once, on one session."""
    conversations, journal, leases = store.conversations, store.journal, store.leases
    await write_portion(store.redis, session, 0, [b'{"id":"0"}'])
    assert await conversations.create(session, op=new_id(), at=1) is not None
    assert await conversations.update(session, b'{"topic":"billing"}')
    item = Item(b'{"id":"1"}')
    assert (await conversations.append(session, new_id(), 1, [item])).outcome == "ok"
    assert (await conversations.erase_item(session, 1, item)).outcome == "ok"

    want = message(session, by_key=True)
    entered = leases.entering(lease_of(want))
    dead = await store.own(want)
    await entered
    assert dead.metadata == {"topic": "billing"}
    assert isinstance(await store.begin(again(want)), Joined)
    patient, leaving, cancelled = (message(session) for _ in range(3))
    for waiter in (patient, leaving, cancelled):
        assert isinstance(await store.begin(waiter), Waiting)
    assert not await store.sessions.leave(session, leaving.run, leaving.token, 60_000)
    assert await conversations.cancel(session, cancelled.run, b"{}") == "cancelled"

    assert await leases.renew([dead.lease]) == []
    assert await leases.left_ms(dead.lease) > 0
    call, late = planned(dead, 0), planned(dead, 1)
    await journal.plan(dead, 0, b"plan", [(call, True), (late, False)], Batch(0, b"event 0"))
    owned = await store.claim(dead)
    assert owned is not None
    leases.end(dead.lease)
    await journal.intend(owned, [late.key])
    await journal.unintend(owned, [late.key])
    await store.sessions.hand_over(owned)
    await store.queue.enqueue(owned.lease, Urgency.RECOVERED)
    assert (await store.queue.sweep(10))[1] > 0
    assert owned.lease in await store.queue.take(100, new_id())
    await leases.park(owned.lease, 2**42)
    await store.queue.bury(DeadLetter("acme/s/r", "reason", "agent", 3, "pod", 1))
    await journal.record(owned, "0", [recorded(call), recorded(late, state="in_doubt")], Batch(1, b"event 1"))
    state, _ = await store.events.read(session, want.run, -1)
    assert state is not None
    assert state.status == "running"
    await journal.emit(owned, Batch(2, b"event 2"))
    assert await store.sessions.commit(owned, ending(b'{"id":"2"}', last_event=3, events=b"event 3")) > 0
    assert await store.begin(again(want)) == Ended(want.run)
    _, frames = await store.events.read(session, want.run, 0)
    assert frames == [b"event 1", b"event 2", b"event 3"]

    granted = await store.own(patient)
    assert [item.id for item in granted.window] == ["0", "2"]
    more = message(session, policy="steer", by_key=True)
    assert await store.sessions.steer(more, granted.run.id) == Steered(granted.run.id)
    assert await store.sessions.commit(granted, ending(b'{"id":"3"}')) is None
    assert len(await store.sessions.steers(granted)) == 1
    await store.sessions.commit(granted, replace(ending(b'{"id":"3"}'), steered=1))
    await resolve_one(store, dead, late)
    assert await store.sessions.revive(session, want.run) == "completed"
    assert await conversations.delete_run(session, want.run) == "ok"
    assert dump(client, session)["seq"] == "5"


async def resolve_one(store: Store, owned: Owned, effect: Planned) -> None:
    """Evidence of an effect in doubt, then its resolution, which enters the history with the next run."""
    session = owned.session
    place = Place(session.tenant, session.id, owned.run.id, effect.key)
    await store.journal.evidence(owned, effect.key, outcome_of("late"))
    found = await store.doubts.read(place)
    assert found is not None
    assert found.late_result == outcome_of("late")
    resolution = Resolution(True, "late", "test", 1)
    assert await store.doubts.resolve(place, resolution, (b'{"id":"n', b'"}')) == resolution
    after = await store.own(message(session))
    assert [item.id for item in after.window][-1] == "n4"
    await store.sessions.commit(after, ending())


async def lock_one(store: Store, name: str) -> LockKeys:
    """Every script of the named locks: taken, waited for, renewed, handed on, given back; and as a quorum does it."""
    lock, config = LockKeys("acme", name), LockConfig("pod-a")
    line = Line(store.redis, store.notices, config, Errands())
    first, second = new_id(), new_id()
    await line.take(lock, first, 0)
    waiting = asyncio.create_task(line.take(lock, second, 10))
    while not (await store.redis.execute(Unit(lock.tag).command("HGET", lock.hash, "line")))[0]:
        await asyncio.sleep(0)
    assert await line.renew(lock, first) is not None
    await line.release(lock, first)
    assert (await waiting).token == second
    await line.release(lock, second)
    quorum = Quorum([store.redis], config, Errands())
    tenure = await quorum.take(lock, new_id(), 0)
    await quorum.release(lock, tenure.token)
    return lock


async def test_named_locks(store: Store, masters: list[redis_py.Redis]) -> None:
    """Locks of one tenant are spread over all masters, and every key has its TTL, free or held."""
    locks = await asyncio.gather(*(lock_one(store, f"order:{number}") for number in range(16)))
    await Line(store.redis, store.notices, LockConfig("pod-a"), Errands()).take(locks[0], new_id(), 0)
    assert {node_of(lock.tag) for lock in locks} == set(range(MASTERS))
    for lock in locks:
        assert 0 < masters[node_of(lock.tag)].ttl(lock.hash) <= 60


async def operate(redis: Redis) -> None:
    """The scripts of tenants, operators and pods, which know no session."""
    await Access(redis).set_key("id", KeyRecord("acme", "digest", ("run",)))
    await Schema(redis).seen("pod-a", {"runs": 1})
    assert await Schema(redis).bump(SCHEMA_VERSION) == []
    assert await Schema(redis).bump(SCHEMA_VERSION + 1) == ["pod-a"]
    quotas = Quotas(redis)
    assert (await quotas.verdict(quotas.entering("acme", "s/r", one := Quota(runs=1)), one)).outcome == "ok"
    await quotas.hold("acme", ["s/r"])
    quotas.leave("acme", "s/r")


async def upgrade_one(store: Store, masters: list[redis_py.Redis]) -> None:
    """A session of the version before."""
    want = message(new_session(), create=False)
    masters[node_of(want.session.tag)].hset(want.session.hash, mapping=old_header(want.session.tenant))
    await store.own(want)


async def remember_one(store: Store, session: SessionKeys) -> None:
    """All that is written about a user, and the jobs behind it."""
    users, jobs = Users(store.redis, StoreConfig("pod-a"), 60), Jobs(store.redis)
    user = UserKeys(session.tenant, "u1")
    gen = (await users.greet(user, session.id).head()).gen
    assert await users.remember(user, gen, [Turn("m1", b"{}", True), Turn("m2", b"{}")]) == (2, 2)
    await users.embed(user, gen, {1: b"v"})
    await users.retry(user, gen, Pending("m1", 1, 1, "why"))
    written = {"gen": gen, "frev": 0, "profile": b"p", "left": 0}
    assert await users.resolve(user, **written, op="op", facts={"f": b"x"}, settled=["m1"]) is True
    assert await users.resolve(user, **written, op="other", facts={}) is False
    assert await users.summarize(session, "", await users.summary(session), b"summary")
    await users.recap(user, gen, "sum_1", b"{}", ["m1"])
    assert await users.forget(user, gen, ["m1"]) == 1
    assert (await users.erase(user, "op", 60)).facts == 1
    with pytest.raises(UserGone):
        await users.remember(user, gen, [Turn("m3", b"{}")])
    await jobs.enter(session.tenant, f"user/{session.tenant}/u1/a")
    async with asyncio.timeout(10):
        while not (taken := await jobs.take(100, 60_000)):
            await asyncio.sleep(0.002)
    await jobs.again(taken[0], 60)
    await store.doubts.enter([Place(session.tenant, session.id, "r", "k")])
    assert await jobs.done(taken[0])


async def test_the_whole_flow(store: Store, routed: Redis, masters: list[redis_py.Redis]) -> None:
    """All scripts, on sessions of all three masters: nothing crosses a slot, and no undeclared key is touched."""
    watchers = watch(masters, routed.scripts)
    sessions: list[SessionKeys] = []
    while {node_of(session.tag) for session in sessions} != set(range(MASTERS)) or len(sessions) < 9:
        sessions.append(new_session(f"tenant-{len(sessions)}"))
    for session in sessions:
        await converse(store, session, masters[node_of(session.tag)])
        await upgrade_one(store, masters)
        await remember_one(store, session)
    await asyncio.gather(*(lock_one(store, session.id) for session in sessions))
    await operate(routed)
    for session in sessions:
        assert await store.conversations.delete(session)
    seen = [watcher.read() for watcher in watchers]
    assert [watcher.undeclared for watcher in seen] == [[]] * MASTERS
    assert set[str]().union(*(watcher.seen for watcher in seen)) == set(routed.scripts)
    locking = {"lock_acquire", "lock_renew", "lock_release", "lock_raise"}
    queueing = {"enqueue", "sweep", "take", "park", "bury"}
    operating = {"access_set", "pod_seen", "schema_bump", "quota_enter", "quota_hold", "quota_leave"}
    queueing |= {"finish", "job_take", "job_done", "job_fail", "doubt_enter"}
    operating |= {name for name in routed.scripts if name.startswith("user_")}
    per_session = set(routed.scripts) - {"lease", "renew", "watch", "upgrade"} - locking - queueing - operating
    assert all(watcher.seen >= per_session for watcher in seen)


# --- slots that move -------------------------------------------------------------------------------------------------


async def moved_while(redis: Redis, cluster: RedisCluster, slot: int, to: RedisServer, work: Awaitable[T]) -> T:
    """Move a slot, with `work` begun when half of its keys are there, and refused at least once before the rest is."""
    with cluster.moving(slot, to):
        sent = redis.stats.units
        doing = asyncio.ensure_future(work)
        await until(lambda: doing.done() or redis.stats.units > sent + 2)
    return await doing


async def test_a_slot_moves_under_a_session(store: Store, routed: Redis, cluster: RedisCluster) -> None:
    """Half moved: keys are found on either side (ASK), a script over both waits for the rest (TRYAGAIN) and is run
    once. Moved: the new owner is known at once (MOVED), and nobody is sent there twice."""
    session = new_session()
    slot, home = key_slot(session.tag), cluster.nodes[node_of(session.tag)]
    away = cluster.nodes[(node_of(session.tag) + 1) % MASTERS]
    want = message(session)
    owned = await store.own(want)
    await store.sessions.commit(owned, ending(b'{"id":"0"}'))
    with cluster.moving(slot, away):
        for name in (session.hash, session.items, session.runs, owned.run.hash):
            unit = Unit(session.tag).command("EXISTS", name).command("EXISTS", name)
            assert await routed.execute(unit) == [1, 1], name
    for number, there in enumerate((home, away, home), 1):
        owned = await moved_while(routed, cluster, slot, there, store.own(message(session)))
        assert len(owned.window) == number
        await store.sessions.commit(owned, ending(b'{"id":"%d"}' % number))
        sent = routed.stats.units
        await store.events.read(session, owned.run.id, -1)
        assert routed.stats.units == sent + 1
    assert await store.begin(again(want, by_key=True, run=want.run)) == Ended(want.run)


async def test_a_map_that_is_wrong_everywhere_is_put_right(store: Store, routed: Redis, cluster: RedisCluster) -> None:
    """One MOVED, and the map is read anew: of many slots that moved, few are found out by refusal."""
    wrong = Server("127.0.0.1", cluster.nodes[0].port)
    nodes = routed._nodes
    assert isinstance(nodes, _Cluster)
    nodes._masters = [wrong] * len(nodes._masters)
    session = new_session()
    while node_of(session.tag) == 0:
        session = new_session()
    assert isinstance(await store.begin(message(session)), Owned)
    await until(lambda: {server.port for server in nodes._masters if server} == {node.port for node in cluster.nodes})


# --- negative controls ------------------------------------------------------------------------------------------------


async def test_a_script_over_two_slots_fails(store: Store, routed: Redis) -> None:
    """The Cluster does refuse: leases of the queue's slot in a script of a session's."""
    session = new_session()
    both = Script("both", "-- both: two slots\n-- KEYS session leases\n-- ARGV\nreturn redis.call('EXISTS', session)\n")
    routed.scripts["both"] = both
    unit = Unit(session.tag).call(both, (session.hash, QueueKeys().leases))
    with pytest.raises(ScriptError, match="CROSSSLOT"):
        await routed.execute(unit)


async def test_the_watcher_finds_an_undeclared_key(routed: Redis, masters: list[redis_py.Redis]) -> None:
    """A key built inside Lua, in the script's own slot: the Cluster lets it pass, the watcher does not."""
    session = new_session()
    text = "-- built: a key of its own\n-- KEYS session\n-- ARGV\nreturn redis.call('GET', session .. ':built')\n"
    built = routed.scripts["built"] = Script("built", text)
    watchers = watch(masters, routed.scripts)
    await routed.execute(Unit(session.tag).call(built, (session.hash,)))
    seen = [watcher.read() for watcher in watchers]
    key = session.hash.decode() + ":built"
    assert [found for watcher in seen for found in watcher.undeclared] == [("built", key)]


async def test_a_unit_for_the_wrong_node_is_moved(routed: Redis, cluster: RedisCluster) -> None:
    """The masters do not answer for each other, so the flow above did go where its slots are."""
    session = new_session()
    unit = Unit(session.tag).command("HGETALL", session.hash)
    async with connected(cluster.nodes[(node_of(session.tag) + 1) % MASTERS].url) as wrong:
        with pytest.raises(ScriptError, match=r"redis\+cluster://.*MOVED"):
            await wrong.execute(unit)
    assert await routed.execute(unit) == [[]]


def test_every_script_compiles(masters: list[redis_py.Redis]) -> None:
    """The server knows each by the name that the loader gives it."""
    for script in load_all().values():
        assert masters[0].script_load(script.source) == script.sha
