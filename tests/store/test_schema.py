"""Two versions of the schema side by side: each session in its own, idle ones brought up, newer ones refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
import redis as redis_py

from agentrt.errors import OwnershipLost, SchemaNewer
from agentrt.records import SCHEMA_VERSION, Item, oldest_known
from agentrt.store.begin import Waiting
from agentrt.store.doubts import Place, Resolution
from agentrt.store.inspection import Inspection
from agentrt.store.keys import SessionKeys, new_id, pods_key, schema_key
from agentrt.store.ownership import Owned
from agentrt.store.schema import Schema
from agentrt.store.upgrade import upgrade
from agentrt.store.users import StoredSummary, Users
from tests.store.stage import Store, dump, ending, message, new_session, without

NEWER = SCHEMA_VERSION + 1
GIVEN = [{"type": "message", "role": "user", "content": "one"}, {"type": "message", "role": "user", "content": "two"}]
INPUT = orjson.dumps(GIVEN)


def lines_of(owned: Owned, *more: bytes) -> list[bytes]:
    """The run's input as the history has it, and what came behind it."""
    run = owned.run.id
    return [Item.given(data, run, owned.first + i).encode() for i, data in enumerate(GIVEN)] + list(more)


def written(store: Store, version: int) -> Store:
    """The same store as a pod that has learned that `version` is written."""
    store.config.writes.version = version
    return store


async def asked(store: Store, session: SessionKeys, run: str) -> list[tuple[str, bytes]]:
    stored = await store.conversations.run(session, run)
    assert stored is not None
    return await store.conversations.asked(session, run, stored)


async def turn(store: Store, session: SessionKeys, **changes: Any) -> Owned:
    owned = await store.own(message(session, input=INPUT))
    end = ending(*lines_of(owned, b'{"id":"msg_9","type":"message"}'), asked=len(GIVEN))
    await store.sessions.commit(owned, replace(end, **changes))
    return owned


# --- what version 2 is ------------------------------------------------------------------------------------------------


async def test_the_input_of_an_ended_run_is_kept_once(store: Store, outside: redis_py.Redis) -> None:
    """Version 1 keeps it in the run as well; what a client is told is the same."""
    told = {}
    for version in (1, 2):
        session = new_session()
        owned = await turn(written(store, version), session)
        assert dump(outside, session)["v"] == str(version)
        kept = outside.hmget(owned.run.hash, "input", "asked")
        assert kept == ([INPUT, None] if version == 1 else [None, b"2"])
        told[version] = [orjson.loads(raw) for _, raw in await asked(store, session, owned.run.id)]
        assert [item.pop("id").replace(owned.run.id, "") for item in told[version]] == ["msg_0", "msg_1"]
    assert told[1] == told[2] == GIVEN


async def test_what_may_be_resumed_keeps_its_input(store: Store, outside: redis_py.Redis) -> None:
    """A failed run is begun anew from it; and one that left no items has it nowhere else."""
    written(store, 2)
    for changes in ({"retry": True}, {"retry": False}, {"lines": ()}):
        owned = await turn(store, new_session(), **{"status": "failed", **changes})
        assert outside.hget(owned.run.hash, "input") == INPUT
    owned = await turn(store, new_session(), status="cancelled", lines=())
    assert outside.hget(owned.run.hash, "input") == INPUT


async def test_an_item_that_was_deleted_is_gone_from_the_input_too(store: Store) -> None:
    written(store, 2)
    session = new_session()
    owned = await turn(store, session)
    gone = Item.given(GIVEN[0], owned.run.id, 0)
    assert (await store.conversations.erase_item(session, 0, gone)).outcome == "ok"
    assert [orjson.loads(raw)["content"] for _, raw in await asked(store, session, owned.run.id)] == ["two"]


# --- bringing sessions up ---------------------------------------------------------------------------------------------


async def test_an_idle_session_is_brought_up_by_its_next_turn(store: Store, outside: redis_py.Redis) -> None:
    """And what it had before is read as before."""
    session = new_session()
    first = await turn(written(store, 1), session)
    await store.conversations.update(session, b'{"a":"b"}')
    before = dump(outside, session)
    written(store, 2)
    owned = await store.own(message(session, input=INPUT))
    after = dump(outside, session)
    assert (after["v"], after["metadata"], after["rev"]) == ("2", '{"a":"b"}', before["rev"])
    assert owned.first == int(before["seq"])
    assert len(await asked(store, session, first.run.id)) == 2
    assert outside.ttl(session.hash) > 0


async def test_a_busy_session_stays_what_it_is(store: Store, outside: redis_py.Redis) -> None:
    """Until nobody works on it: waiters get their turns in its own version, claims too."""
    session = new_session()
    owned = await written(store, 1).own(message(session, input=INPUT))
    written(store, 2)
    waiting = message(session, input=INPUT)
    assert isinstance(await store.begin(waiting), Waiting)
    claimed = await store.claim(owned)
    assert claimed is not None
    with pytest.raises(OwnershipLost):
        await store.sessions.commit(owned, ending())
    await store.sessions.commit(claimed, ending(*lines_of(claimed), asked=2))
    assert outside.hget(claimed.run.hash, "input") == INPUT
    granted = await store.own(waiting)
    assert dump(outside, session)["v"] == "1"
    await store.sessions.commit(granted, ending(*lines_of(granted), asked=2))
    last = await turn(store, session)
    assert dump(outside, session)["v"] == "2" and outside.hget(last.run.hash, "input") is None


async def test_a_pod_that_has_not_heard_works_on_what_was_brought_up(store: Store, outside: redis_py.Redis) -> None:
    """It knows the version; only what it makes anew is of the older one, for two seconds at most."""
    session = new_session()
    await turn(written(store, 2), session)
    owned = await turn(written(store, 1), session)
    assert dump(outside, session)["v"] == "2" and outside.hget(owned.run.hash, "input") is None


@pytest.mark.parametrize("guarded", [True, False])
async def test_what_is_written_meanwhile_is_not_lost(store: Store, outside: redis_py.Redis, guarded: bool) -> None:
    """Between the reading of a header and its replacement a client appends. The control does not look again."""
    session = new_session()
    await turn(written(store, 1), session)
    script = store.redis.scripts["upgrade"]
    if not guarded:
        line = "  if redis.call('HGET', session, ARGV[i]) ~= ARGV[i + 1] then return {'moved'} end"
        script = without(script, line)
    header = [part for pair in outside.hgetall(session.hash).items() for part in pair]
    assert (await store.conversations.append(session, "op", 3, [Item(b'{"id":"msg_x"}')])).outcome == "ok"
    outside.hdel(session.hash, "append_op")  # so that there are as many fields as before
    upcast = [b"2" if header[i - 1] == b"v" else part for i, part in enumerate(header)]
    reply = outside.eval(script.source, 1, session.hash, len(header) // 2, *header, *upcast)
    assert reply == ([b"moved"] if guarded else [b"ok"])
    assert (outside.hget(session.hash, "seq") == b"4") is guarded


async def test_upgrades_at_once_are_one(store: Store, outside: redis_py.Redis) -> None:
    session = new_session()
    await turn(written(store, 1), session)
    await asyncio.gather(*(upgrade(store.redis, session, 2) for _ in range(10)))
    assert dump(outside, session)["v"] == "2"
    await upgrade(store.redis, new_session(), 2)  # one that is gone is none


# --- what a pod cannot read -------------------------------------------------------------------------------------------


async def test_newer(store: Store, outside: redis_py.Redis) -> None:
    """A session that a newer pod wrote is refused by all that reads or writes it, and nothing of it is touched."""
    session = new_session()
    ended = await turn(store, session)
    live = await store.own(message(session))
    outside.hset(session.hash, "v", NEWER)
    before = everything(outside, session)
    place, users = Place(session.tenant, session.id, ended.run.id, "k"), Users(store.redis, store.config, 60)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.begin(message(session)),
        lambda: store.claim(live),
        lambda: store.conversations.header(session),
        lambda: store.conversations.run(session, ended.run.id),
        lambda: store.conversations.update(session, b"{}"),
        lambda: store.conversations.append(session, "op", 1, [Item(b"{}")]),
        lambda: store.conversations.erase_item(session, 0, Item(b"{}")),
        lambda: store.conversations.cancel(session, live.run.id, b"{}"),
        lambda: store.conversations.delete(session),
        lambda: store.sessions.steer(message(session), live.run.id),
        lambda: store.sessions.revive(session, ended.run.id),
        lambda: store.doubts.resolve(place, Resolution(True, "x", "me", 1), (b"", b"")),
        lambda: users.summarize(session, "", StoredSummary(b"", 0), b"said"),
        lambda: Inspection(store.redis).session(session),
    ]
    for call in calls:
        with pytest.raises(SchemaNewer) as caught:
            await call()
        assert caught.value.version == NEWER
    assert not await store.sessions.leave(session, live.run.id, live.token, 1)
    assert everything(outside, session) == before


def everything(client: redis_py.Redis, session: SessionKeys) -> dict[bytes, bytes]:
    """All keys of the session's slot, as Redis dumps them."""
    return {key: client.dump(key) for key in client.scan_iter(match=session.hash.decode() + "*")}


async def test_every_script_that_writes_a_header_looks_at_its_version(store: Store) -> None:
    """Those that ask for the owner's token need not: nobody becomes the owner of what it does not know."""
    reading = {"copy", "delete_left"}
    for script in store.redis.scripts.values():
        if "session" in script.keys and script.name not in {"create", "upgrade", *reading}:
            text = script.source
            assert "refusal(session" in text or "strange(" in text, script.name


# --- the deployment's version ----------------------------------------------------------------------------------------


async def tell(outside: redis_py.Redis, pod: str, told: bytes) -> None:
    """What a pod of another release says."""
    seconds, micros = outside.time()
    outside.hset(pods_key(), pod, b"%d\n%b" % (seconds * 1000 + micros // 1000, told))


async def test_the_first_pod_has_its_own_version_written(store: Store, outside: redis_py.Redis) -> None:
    schema = Schema(store.redis)
    assert (await schema.state()).writes is None
    assert await schema.seen("a", {}) == SCHEMA_VERSION
    assert outside.ttl(schema_key()) == -1
    state = await schema.state()
    assert (state.writes, state.pods) == (SCHEMA_VERSION, {"a": SCHEMA_VERSION})


async def test_beside_older_pods_what_they_know_is_written(store: Store, outside: redis_py.Redis) -> None:
    """Also where they are of a release that said nothing of versions; and it stays so until it is raised."""
    schema = Schema(store.redis)
    await tell(outside, "old", b'{"pid":7}')
    assert await schema.seen("new", {}) == 1
    assert (await schema.state()).pods == {"old": 1, "new": SCHEMA_VERSION}
    outside.hdel(pods_key(), "old")
    assert await schema.seen("new", {}) == 1


async def test_a_bump_waits_for_every_pod(store: Store, outside: redis_py.Redis) -> None:
    """Those that left, or are silent for ten seconds, do not count; nor does anything with force."""
    schema = Schema(store.redis)
    await tell(outside, "old", b'{"schema":%d}' % oldest_known())
    assert await schema.seen("new", {}) == oldest_known()
    assert await schema.bump(SCHEMA_VERSION) == ["old"]
    assert await schema.seen("new", {}) == oldest_known()
    seconds, _ = outside.time()
    outside.hset(pods_key(), "old", b"%d\n{}" % (seconds * 1000 - 11_000))
    assert await schema.bump(SCHEMA_VERSION) == []
    assert await schema.seen("new", {}) == SCHEMA_VERSION
    await tell(outside, "old", b"{}")
    assert await schema.bump(SCHEMA_VERSION) == []  # it was done already
    assert await schema.bump(NEWER, force=True) == []
    assert await schema.seen("new", {}) == NEWER  # a pod hears that there is more than it knows


async def test_who_leaves_decides_nothing(store: Store, outside: redis_py.Redis) -> None:
    schema = Schema(store.redis)
    await schema.seen(new_id(), None)
    assert not outside.exists(schema_key())
