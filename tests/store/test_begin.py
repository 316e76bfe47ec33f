"""What becomes of a message: its session is owned, joined, busy, a fork, unknown; and brought up to this version."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis as redis_py

from agentrt.errors import ForeignState, StoreUnavailable
from agentrt.records import Item
from agentrt.store.begin import Begin, Busy, Conflict, Ended, Fork, Joined, Missing, Waiting
from agentrt.store.connection import Redis
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.store.stage import (
    ITEM,
    Store,
    again,
    commit,
    dump,
    line_up,
    message,
    new_session,
    old_header,
)


async def test_owned(store: Store, outside: redis_py.Redis) -> None:
    """A first message creates the session and owns it; the header says who, and every later write can be fenced."""
    want = message(new_session(), user="ann")
    owned = await store.own(want)
    assert (owned.token, owned.run.id, owned.attempt, owned.first) == (want.token, want.run, 1, 0)
    assert (owned.user, owned.metadata, list(owned.window)) == ("ann", {}, [])
    header = dump(outside, want.session)
    assert header | {"created": "", "updated": ""} == {
        "v": "1",
        "tenant": "acme",
        "user": "ann",
        "agent": "support",
        "created": "",
        "updated": "",
        "rev": "0",
        "seq": "0",
        "head": "",
        "owner": want.token,
        "pod": "pod-a",
        "run": want.run,
        "run_fp": want.fingerprint,
        "fence": str(owned.fence),
        "waiters": "",
        "metadata": "{}",
    }
    seconds, micros = outside.time()
    assert abs(seconds * 1000 - int(header["created"])) < 5000
    assert abs(seconds * 1_000_000 + micros - owned.fence) < 5_000_000


async def test_the_run_keeps_what_was_asked(store: Store) -> None:
    """Enough to go on with it on any pod."""
    want = message(new_session(), input=b'[{"role":"user"}]')
    await store.own(want)
    run = await store.conversations.run(want.session, want.run)
    assert run is not None
    assert (run.status, run.request, run.input) == ("running", want.request, want.input)
    assert (run.first, run.n_items, run.result) == (0, 0, b"")


async def test_the_window_is_what_came_before(redis: Redis) -> None:
    """The newest items, oldest first, without the numbers that stayed empty."""
    store = Store(redis, window_items=3)
    want = message(new_session())
    await commit(store, await store.own(want), *(b'{"id":"%d"}' % i for i in range(4)), b"", b'{"id":"5"}')
    owned = await store.own(message(want.session))
    assert [item.id for item in owned.window] == ["3", "5"]
    assert owned.first == 6
    fresh = await store.own(message(new_session(), fresh=True))
    assert list(fresh.window) == []


async def test_missing(store: Store, outside: redis_py.Redis) -> None:
    """Only a message that may create a session does; a refused one leaves nothing behind."""
    assert await store.begin(message(new_session(), create=False)) == Missing()
    assert outside.dbsize() == 0


@pytest.mark.parametrize("by_key", [True, False], ids=["by key", "by fingerprint"])
async def test_the_same_message_joins_the_live_run(store: Store, by_key: bool) -> None:
    """Never a 409 for the same message, and never a second run."""
    want = message(new_session(), by_key=by_key)
    await store.own(want)
    outcome = await store.begin(again(want))
    assert isinstance(outcome, Joined)
    assert (outcome.run, outcome.owner.token, outcome.owner.pod) == (want.run, want.token, "pod-a")


@pytest.mark.parametrize("by_key", [True, False], ids=["by key", "by fingerprint"])
async def test_the_same_message_joins_the_waiting_run(store: Store, by_key: bool) -> None:
    live = message(new_session())
    await store.own(live)
    want = message(live.session, by_key=by_key)
    await line_up(store, want)
    outcome = await store.begin(again(want))
    assert isinstance(outcome, Joined)
    assert (outcome.run, outcome.owner.token) == (want.run, want.token)


async def test_a_key_says_more_than_a_fingerprint(store: Store) -> None:
    """Two keys with the same body are two messages."""
    want = message(new_session(), by_key=True)
    await store.own(want)
    other = replace(again(want), run=new_id())
    assert isinstance(await store.begin(other), Waiting)


@pytest.mark.parametrize("ended", [True, False])
async def test_conflict(store: Store, ended: bool) -> None:
    """An Idempotency-Key with another body is refused, during the run and after it."""
    want = message(new_session(), by_key=True)
    owned = await store.own(want)
    if ended:
        await commit(store, owned)
    assert await store.begin(again(want, fingerprint="another body")) == Conflict()


async def test_ended_by_key(store: Store) -> None:
    """With the key, the result is replayed whenever the message comes again."""
    want = message(new_session(), by_key=True)
    await commit(store, await store.own(want))
    assert await store.begin(again(want)) == Ended(want.run)
    await commit(store, await store.own(message(want.session)))
    assert await store.begin(again(want)) == Ended(want.run)


async def test_ended_by_fingerprint_only_for_a_retry(store: Store, outside: redis_py.Redis) -> None:
    """Without a key, a message that ended is replayed within 60 s, and only if the SDK calls it a retry."""
    want = message(new_session())
    await commit(store, await store.own(want))
    assert await store.begin(again(want, retried=True)) == Ended(want.run)
    ended_ms = int(dump(outside, want.session)["last_end"])
    outside.hset(want.session.hash, "last_end", ended_ms - 61_000)
    late = await store.own(again(want, retried=True))
    await commit(store, late)
    assert isinstance(await store.begin(again(want)), Owned), "said twice is meant twice"


async def test_busy(redis: Redis) -> None:
    """Refused by policy, and when the line is full; the answer names the live run and its owner."""
    store = Store(redis, waiters_max=2)
    live = message(new_session())
    await store.own(live)
    refused = await store.begin(message(live.session, policy="reject"))
    assert isinstance(refused, Busy)
    assert (refused.live.run, refused.live.token, refused.live.pod) == (live.run, live.token, "pod-a")
    for _ in range(2):
        await line_up(store, message(live.session))
    assert isinstance(await store.begin(message(live.session)), Busy)


async def test_fork(store: Store) -> None:
    """A chained request goes on at the tail of head, live run and waiting runs; anywhere else it forks."""
    first = message(new_session())
    owned = await store.own(first)
    await commit(store, owned)
    assert await store.begin(message(first.session, parent=new_id())) == Fork()
    live = message(first.session, parent=first.run)
    await store.own(live)
    assert await store.begin(message(first.session, parent=first.run)) == Fork()
    waiting = message(first.session, parent=live.run)
    await line_up(store, waiting)
    assert await store.begin(message(first.session, parent=live.run)) == Fork()
    await line_up(store, message(first.session, parent=waiting.run))


async def test_foreign(store: Store, outside: redis_py.Redis) -> None:
    """A key that holds another tenant's state stops the request."""
    want = message(new_session())
    await commit(store, await store.own(want))
    outside.hset(want.session.hash, "tenant", "rival")
    with pytest.raises(ForeignState):
        await store.begin(message(want.session))
    with pytest.raises(ForeignState):
        await store.conversations.header(want.session)
    with pytest.raises(ForeignState):
        await store.conversations.run(want.session, want.run)


def write_old(outside: redis_py.Redis, want: Begin, **fields: str) -> None:
    """A session with two items, as the prototype left it."""
    outside.hset(want.session.hash, mapping=old_header(want.session.tenant, **fields))
    outside.rpush(want.session.items, b'{"id":"0"}', b'{"id":"1"}')
    outside.expire(want.session.hash, 1000)
    outside.expire(want.session.items, 1000)


async def test_older_is_upgraded(store: Store, outside: redis_py.Redis) -> None:
    """The first begin brings an idle session of the version before to this one; nothing of it is lost."""
    want = message(new_session(), create=False, parent="R" * 22)
    write_old(outside, want)
    owned = await store.own(want)
    assert (owned.user, owned.first) == ("ann", 2)
    assert owned.metadata == {"topic": "billing", "v": "not the version"}
    assert [item.id for item in owned.window] == ["0", "1"]
    header = dump(outside, want.session)
    assert (header["v"], header["rev"], header["head"]) == ("1", "3", "R" * 22)
    assert not any(name.startswith("meta:") for name in header)
    assert outside.ttl(want.session.hash) > 1000


async def test_older_is_upgraded_once(store: Store, outside: redis_py.Redis) -> None:
    """Of many that find it so, one owns the session and the others wait."""
    want = message(new_session(), create=False)
    write_old(outside, want)
    outcomes = await asyncio.gather(*(store.begin(message(want.session, create=False)) for _ in range(10)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Owned"] + ["Waiting"] * 9


async def test_older_and_busy_is_refused(store: Store, outside: redis_py.Redis) -> None:
    """An older pod works on the session: its header may not be rewritten under it, so come back later."""
    want = message(new_session(), create=False)
    write_old(outside, want, owner="T" * 22, run="L" * 22)
    before = dump(outside, want.session)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(store.begin(want), 5)
    assert dump(outside, want.session) == before


async def test_older_can_be_appended_to(store: Store, outside: redis_py.Redis) -> None:
    """A pod reads one version back: also for what clients write between turns."""
    want = message(new_session())
    write_old(outside, want)
    assert await store.conversations.update(want.session, b'{"a":"b"}')
    assert (await store.conversations.append(want.session, "op", 2, [Item(ITEM)])).outcome == "ok"
    assert (await store.conversations.erase_item(want.session, 2, Item(ITEM))).outcome == "ok"
