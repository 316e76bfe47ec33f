"""A deletion is two steps: whatever happens between them, nothing is left, and nothing of a new session goes."""

from __future__ import annotations

import redis as redis_py

from agentrt.records import SCHEMA_VERSION
from agentrt.store.begin import Begin
from agentrt.store.connection import Unit
from agentrt.store.journal import Batch
from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import Owned
from agentrt.store.removal import remove_left
from tests.store.stage import ITEM, Store, again, commit, dump, line_up, message, new_session, planned


async def first_step(store: Store, keys: SessionKeys) -> list[str]:
    """What a pod does that dies, or is slow, behind the first step; the runs it would remove next."""
    script = store.redis.scripts["delete"]
    unit = Unit(keys.tag).call(script, (keys.hash, keys.items, keys.runs), known=SCHEMA_VERSION)
    return [one.decode() for one in (await store.redis.execute(unit))[0][1:]]


async def worked(store: Store, want: Begin) -> Owned:
    """A run that has a journal and a log, behind another one that has ended."""
    await commit(store, await store.own(message(want.session)))
    owned = await store.own(want)
    await store.journal.plan(owned, 0, b"{}", [(planned(owned), True)], Batch(0, b"a"))
    return owned


async def test_half_a_deletion_asked_for_again(store: Store, outside: redis_py.Redis) -> None:
    """Its reply was lost, or its pod died: there was a session, and now nothing is left of it."""
    owned = await worked(store, message(new_session()))
    await first_step(store, owned.session)
    assert outside.exists(owned.run.hash)
    assert await store.conversations.delete(owned.session)
    assert outside.dbsize() == 0


async def test_a_message_between_the_two_steps(store: Store, outside: redis_py.Redis) -> None:
    """Under its key it is the same run, of a new session: it begins with nothing, and the second step leaves it."""
    want = message(new_session(), by_key=True)
    await worked(store, want)
    runs = await first_step(store, want.session)
    assert runs[-1] == want.run
    anew = await store.own(again(want))
    assert (anew.attempt, anew.first, anew.record) == (1, 0, None)
    assert not outside.exists(anew.run.effects, anew.run.events)
    await remove_left(store.redis, want.session, runs)
    assert await commit(store, anew) == 1
    await remove_left(store.redis, want.session, runs)  # sent again
    assert outside.lrange(want.session.runs, 0, -1) == [want.run.encode()]
    assert outside.hget(anew.run.hash, "status") == b"completed"
    assert await store.conversations.delete(want.session)
    assert outside.dbsize() == 0


async def test_a_message_where_nobody_ends_the_deletion(store: Store, outside: redis_py.Redis) -> None:
    """It ends it: nothing of the session before hangs on the new one."""
    owned = await worked(store, message(new_session()))
    await first_step(store, owned.session)
    anew = await store.own(message(owned.session))
    assert outside.lrange(owned.session.runs, 0, -1) == [anew.run.id.encode()]
    assert not outside.exists(owned.run.hash, owned.run.effects, owned.run.events)


async def test_a_session_whose_run_is_gone(store: Store, outside: redis_py.Redis) -> None:
    """Nobody can go on with it: whoever finds that frees the session for the next in line."""
    owned = await store.own(message(new_session()))
    next_one = message(owned.session)
    await line_up(store, next_one)
    outside.hset(owned.session.hash, "steers", '["[]"]')
    outside.delete(owned.run.hash)
    assert await store.claim(owned) is None
    assert not outside.exists(owned.run.hash)
    assert "steers" not in dump(outside, owned.session)
    granted = await store.own(next_one)
    assert await commit(store, granted, ITEM) == 1
