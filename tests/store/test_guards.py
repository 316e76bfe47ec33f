"""A Redis that answers but does not serve: begin and probe say why within 3 s; runs under way get through.

Rows 22 and 24 to 26 of docs/matrix.md.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from agentrt.errors import StoreUnavailable
from agentrt.store.connection import RedisOptions, Unit
from agentrt.store.doubts import Place
from agentrt.store.journal import Batch
from agentrt.store.keys import QueueKeys
from agentrt.store.probe import Probe
from agentrt.store.sessions import Sessions
from tests.harness.redis_server import RedisServer
from tests.store.stage import Store, connected, dump, ending, message, new_session, planned, recorded, without


@pytest.fixture
async def store(own_server: RedisServer) -> AsyncIterator[Store]:
    """The store over a Redis of its own, every script known there."""
    async with connected(own_server.url) as redis:
        store = Store(redis)
        await store.own(message(new_session()))
        yield store


@pytest.fixture
async def probe(own_server: RedisServer) -> AsyncIterator[Probe]:
    probe = Probe(RedisOptions(own_server.url), "pod-a")
    assert await probe.ask(1.0) is None
    yield probe
    await probe.aclose()


@pytest.fixture
def admin(own_server: RedisServer) -> Iterator[redis_py.Redis]:
    with own_server.client() as client:
        client.ping()
        yield client


# --- the states -------------------------------------------------------------------------------------------------------


def out_of_memory(server: RedisServer, admin: redis_py.Redis) -> None:
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1")


def demoted(server: RedisServer, admin: redis_py.Redis) -> None:
    """A replica whose master is not there."""
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")


def locked_out(server: RedisServer, admin: redis_py.Redis) -> None:
    """Redis was given a password that the pod does not know; whoever is connected has to connect anew."""
    admin.config_set("requirepass", "secret")
    admin.client_kill_filter(skipme=True, _type="normal")


def without_rights(server: RedisServer, admin: redis_py.Redis) -> None:
    """The pod's user may read only. `admin` itself goes on as another user."""
    admin.execute_command("ACL", "SETUSER", "root", "on", ">root", "~*", "&*", "+@all")
    admin.execute_command("AUTH", "root", "root")
    admin.execute_command("ACL", "SETUSER", "default", "-@all", "+get", "+client", "+ping")


def disk_failed(server: RedisServer, admin: redis_py.Redis) -> None:
    """A snapshot cannot be written: its file is a folder."""
    (server.dir / "dump.rdb").mkdir()
    admin.config_set("save", "3600 1")
    admin.bgsave()
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")


def without_replicas(server: RedisServer, admin: redis_py.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def holding_up(server: RedisServer, command: tuple[str | int, ...], code: str) -> Iterator[None]:
    """Send a command that occupies Redis, from a thread; enter when Redis answers others with `code`."""

    def occupy() -> None:
        with suppress(redis_py.RedisError), redis_py.Redis(port=server.port, socket_timeout=60) as client:
            client.execute_command(*command)

    def answers_with_code() -> bool:
        with server.client(retry=Retry(NoBackoff(), 0)) as client:
            try:
                client.get("x")
            except redis_py.RedisError as error:
                return code in f"{type(error).__name__} {error}"
        return False

    thread = threading.Thread(target=occupy)
    thread.start()
    try:
        until(answers_with_code)
        yield
    finally:
        with suppress(redis_py.RedisError), server.client() as client:
            client.script_kill()
        thread.join()


# --- what begin and the probe say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("oom", out_of_memory),
        ("readonly", demoted),
        ("noauth", locked_out),
        ("noperm", without_rights),
        ("misconf", disk_failed),
        ("noreplicas", without_replicas),
    ],
)
async def test_the_reason_is_told_in_time(
    store: Store,
    probe: Probe,
    own_server: RedisServer,
    admin: redis_py.Redis,
    reason: str,
    state: Callable[[RedisServer, redis_py.Redis], None],
) -> None:
    """503 with the reason, not an internal error and not a hang."""
    state(own_server, admin)
    before = time.monotonic()
    told = await store.reason()
    took_s = time.monotonic() - before
    answers = [await probe.ask(1.0), await probe.ask(1.0)]  # the first may only find its connection gone
    assert None not in answers
    assert answers[1] == reason
    assert told == reason
    assert took_s < 3.2


async def test_busy(store: Store, probe: Probe, own_server: RedisServer) -> None:
    """Somebody's script runs on and on."""
    with holding_up(own_server, ("EVAL", "while true do end", 0), "busy running a script"):
        before = time.monotonic()
        assert await store.reason() == "busy"
        assert time.monotonic() - before < 3.2
        assert await probe.ask(1.0) == "busy"
    await store.own(message(new_session()))
    assert await probe.ask(1.0) is None


async def test_loading(store: Store, probe: Probe, own_server: RedisServer, admin: redis_py.Redis) -> None:
    """Redis has just been restarted and reads its data."""
    admin.config_set("rdbcompression", "no")
    admin.execute_command("DEBUG", "POPULATE", 14, "filler", 3_000_000)  # it looks up every 2 MB while it loads
    admin.config_set("key-load-delay", 250_000)
    with holding_up(own_server, ("DEBUG", "RELOAD"), "Loading"):
        before = time.monotonic()
        assert await store.reason() == "loading"
        assert time.monotonic() - before < 3.2
        assert await probe.ask(1.0) == "loading"
    assert await probe.ask(1.0) is None


async def test_a_moment_is_waited_out(store: Store, own_server: RedisServer) -> None:
    """Busy for a moment only: begin gets through without an error."""
    with holding_up(own_server, ("EVAL", "while true do end", 0), "busy running a script"):
        beginning = asyncio.ensure_future(store.own(message(new_session())))
        refused_before = store.redis.stats.units
        while store.redis.stats.units < refused_before + 2:
            await asyncio.sleep(0)
    assert (await beginning).attempt == 1


async def test_unreachable(store: Store, probe: Probe, own_server: RedisServer) -> None:
    """Redis is gone."""
    own_server.stop()
    before = time.monotonic()
    assert await store.reason() == "unreachable"
    assert time.monotonic() - before < 3.2
    assert await probe.ask(1.0) == "unreachable"


# --- a turn's end gets through ----------------------------------------------------------------------------------------


async def test_record_and_commit_get_through_without_memory(store: Store, admin: redis_py.Redis) -> None:
    """What was done is kept and the run ends, though Redis refuses new data; only new work is shed."""
    want = message(new_session())
    owned = await store.own(want)
    call = planned(owned)
    await store.journal.plan(owned, 0, b"plan", [(call, True)], Batch(0, b"event 0"))
    admin.config_set("maxmemory", "1")
    assert await store.reason() == "oom"
    await store.journal.record(owned, "0", [recorded(call)], Batch(1, b"event 1"))
    assert await store.sessions.commit(owned, ending(b"in", b"out", last_event=2, events=b"event 2")) == 1
    admin.config_set("maxmemory", "0")
    assert set(admin.hgetall(owned.run.effects)) == {call.key.encode(), call.key.encode() + b"!"}
    assert admin.lrange(want.session.items, 0, -1) == [b"in", b"out"]
    assert [fields[b"e"] for _, fields in admin.xrange(owned.run.events)] == [b"event 0", b"event 1", b"event 2"]
    assert dump(admin, want.session)["owner"] == ""
    assert admin.info("stats")["evicted_keys"] == 0


@pytest.mark.parametrize("write", ["record", "commit"])
async def test_negative_control_an_hset_first(store: Store, admin: redis_py.Redis, write: str) -> None:
    """Without the HDEL in front the same write is refused: the test above does test its order."""
    lines = {
        "record": "  redis.call('HDEL', effects, ARGV[i] .. '@')",
        "commit": "redis.call('HDEL', session, 'owner', 'steers')",
    }
    store.redis.scripts[write] = without(store.redis.scripts[write], lines[write])
    owned = await store.own(message(new_session()))
    call = planned(owned)
    await store.journal.plan(owned, 0, b"plan", [(call, True)], Batch())
    admin.script_load(store.redis.scripts[write].source)
    admin.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable) as caught:
        if write == "record":
            await store.journal.record(owned, "0", [recorded(call)], Batch())
        else:
            await Sessions(store.redis, store.config).commit(owned, ending(b"in"))
    assert caught.value.reason == "oom"


@pytest.mark.parametrize("write", ["plan", "intend", "emit", "claim", "renew", "doubt", "cancel"])
async def test_runs_under_way_go_on_without_memory(store: Store, admin: redis_py.Redis, write: str) -> None:
    """Only begin sheds load: a run that was admitted is not stopped half-way, and its lease does not run out."""
    owned = await store.own(message(new_session()))
    call = planned(owned)
    await store.leases.entering(owned.lease)
    admin.zadd(QueueKeys().leases, {owned.lease: 1})
    admin.config_set("maxmemory", "1")
    match write:
        case "plan":
            await store.journal.plan(owned, 0, b"plan", [(call, True)], Batch())
        case "intend":
            await store.journal.intend(owned, [call.key])
        case "emit":
            await store.journal.emit(owned, Batch(0, b"event 0"))
        case "claim":
            assert await store.claim(owned) is not None
        case "renew":
            assert await store.leases.renew([owned.lease]) == []
            assert (admin.zscore(QueueKeys().leases, owned.lease) or 0) > 1
        case "doubt":
            await store.doubts.enter([Place(owned.session.tenant, owned.session.id, owned.run.id, call.key)])
            assert admin.zcard(QueueKeys().doubts) == 1
        case "cancel":
            assert await store.conversations.cancel(owned.session, owned.run.id, b"{}") == "asked"


async def test_a_lease_ends_without_memory(store: Store, admin: redis_py.Redis) -> None:
    """What only removes is never refused."""
    await store.leases.entering(b"member")
    admin.config_set("maxmemory", "1")
    store.leases.end(b"member")
    await store.redis.execute(Unit(b"q:0").command("PING"))
    assert admin.zscore(QueueKeys().leases, "member") is None
