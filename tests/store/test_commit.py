"""The end of a run: items once and in order, and what a displaced owner may not write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis as redis_py

from agentrt.errors import OwnershipLost, ScriptError
from agentrt.records import Item
from agentrt.store.connection import Redis
from agentrt.store.journal import Batch
from agentrt.store.ownership import Owned
from tests.store.stage import (
    Store,
    commit,
    dump,
    ending,
    line_up,
    message,
    new_session,
    planned,
    recorded,
    without,
)

# --- commit -----------------------------------------------------------------------------------------------------------


async def test_commit_appends_once_and_disowns(store: Store, outside: redis_py.Redis) -> None:
    """Input and output together, one revision on; a second sending changes nothing and is answered alike."""
    want = message(new_session())
    owned = await store.own(want)
    end = ending(b"one", b"two", b"three", last_event=1, events=b"a\nb")
    assert await store.sessions.commit(owned, end) == 1
    before = {key: outside.dump(key) for key in outside.scan_iter()}
    assert await store.sessions.commit(owned, end) == 1
    assert {key: outside.dump(key) for key in outside.scan_iter()} == before
    assert outside.lrange(want.session.items, 0, -1) == [b"one", b"two", b"three"]
    header = dump(outside, want.session)
    assert (header["rev"], header["seq"], header["head"]) == ("1", "3", want.run)
    assert (header["owner"], header["run"], header["run_fp"]) == ("", "", "")
    assert (header["last_run"], header["last_fp"]) == (want.run, want.fingerprint)
    run = await store.conversations.run(want.session, want.run)
    assert run is not None
    assert (run.status, run.result, run.first, run.n_items) == ("completed", end.result, 0, 3)


async def test_an_idle_session_names_no_pod(store: Store, outside: redis_py.Redis) -> None:
    """The schema: token and pod of the owner are empty when idle."""
    want = message(new_session())
    await commit(store, await store.own(want))
    header = dump(outside, want.session)
    assert (header["owner"], header["pod"]) == ("", "")


async def test_rev_and_seq_go_on(store: Store) -> None:
    """Every commit and append is one revision; numbers of items are never given twice."""
    want = message(new_session())
    assert await commit(store, await store.own(want), b"0", b"1") == 1
    assert (await store.conversations.append(want.session, "op", 2, [Item(b"2")])).detail == "2"
    owned = await store.own(message(want.session))
    assert owned.first == 3
    assert await commit(store, owned, b"3", b"", b"5") == 3
    header = await store.conversations.header(want.session)
    assert header is not None
    assert header.seq == 6
    numbered = [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3"), (5, b"5")]
    assert await store.conversations.items(want.session, 0, 99) == numbered


async def test_a_run_without_items_is_no_head(store: Store) -> None:
    """A run that failed before it did anything leaves the tail where it was."""
    first = message(new_session())
    await commit(store, await store.own(first))
    failed = message(first.session)
    await store.sessions.commit(await store.own(failed), ending(status="failed"))
    header = await store.conversations.header(first.session)
    assert header is not None
    assert (header.head, header.seq) == (first.run, 1)
    assert isinstance(await store.begin(message(first.session, parent=first.run)), Owned)


async def test_commit_refuses_a_history_it_does_not_expect(store: Store, outside: redis_py.Redis) -> None:
    """Rejection, not repair: items that somebody put in between are a defect, and nothing is written."""
    want = message(new_session())
    owned = await store.own(want)
    outside.rpush(want.session.items, b"intruder")
    outside.expire(want.session.items, 1000)
    with pytest.raises(ScriptError, match="history"):
        await commit(store, owned)
    assert dump(outside, want.session)["owner"] == want.token


# --- fences -----------------------------------------------------------------------------------------------------------


Write = Callable[[Store, Owned], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "plan": lambda store, owned: store.journal.plan(owned, 0, b"{}", [(planned(owned), True)], Batch()),
    "intend": lambda store, owned: store.journal.intend(owned, [planned(owned).key]),
    "record": lambda store, owned: store.journal.record(owned, "0", [recorded(planned(owned))], Batch()),
    "emit": lambda store, owned: store.journal.emit(owned, Batch(0, b"late")),
    "commit": commit,
}


def contents(outside: redis_py.Redis) -> dict[bytes, bytes]:
    return {key: outside.dump(key) for key in outside.scan_iter()}


@pytest.mark.parametrize("name", WRITES)
async def test_a_displaced_owner_is_refused(store: Store, outside: redis_py.Redis, name: str) -> None:
    """Whatever it still wants to write after the claim: refused, and nothing has changed."""
    stale = await store.own(message(new_session()))
    assert await store.claim(stale) is not None
    before = contents(outside)
    with pytest.raises(OwnershipLost):
        await WRITES[name](store, stale)
    assert contents(outside) == before


@pytest.mark.parametrize("name", sorted(WRITES.keys() - {"unintend"}))  # which also looks at the token in the intent
async def test_negative_control_without_the_guard(redis: Redis, outside: redis_py.Redis, name: str) -> None:
    """With the guard's line taken out the same write gets through: the test above does test the guard."""
    redis.scripts[name] = without(redis.scripts[name], "if refused then return {refused} end")
    store = Store(redis)
    stale = await store.own(message(new_session()))
    fresh = await store.claim(stale)
    assert fresh is not None
    await store.journal.plan(fresh, 0, b"{}", [(planned(fresh), True)], Batch())
    before = contents(outside)
    await WRITES[name](store, stale)
    assert contents(outside) != before


async def test_the_fence_counts_beside_the_token(store: Store, outside: redis_py.Redis) -> None:
    """A lower fence is refused even under the owner's own token; it is compared as a number."""
    owned = await store.own(message(new_session()))
    outside.hset(owned.session.hash, "fence", owned.fence + 1)
    with pytest.raises(OwnershipLost):
        await store.journal.emit(owned, Batch(0, b"x"))
    outside.hset(owned.session.hash, "fence", 9)
    await store.journal.emit(owned, Batch(0, b"x"))


async def test_a_fence_never_goes_back(store: Store, outside: redis_py.Redis) -> None:
    """Redis' clock may lag behind the last fence: the next one is one more, all its digits kept."""
    want = message(new_session())
    await commit(store, await store.own(want))
    ahead = 8_000_000_000_000_001
    outside.hset(want.session.hash, "fence", ahead)
    owned = await store.own(message(want.session))
    assert owned.fence == ahead + 1
    claimed = await store.claim(owned)
    assert claimed is not None
    assert claimed.fence == ahead + 2


@pytest.mark.parametrize("name", WRITES)
async def test_a_deleted_session_refuses_its_run(store: Store, outside: redis_py.Redis, name: str) -> None:
    """What a run in flight still wants to write after the deletion is refused, and brings no key back."""
    owned = await store.own(message(new_session()))
    assert await store.conversations.delete(owned.session)
    with pytest.raises(OwnershipLost):
        await WRITES[name](store, owned)
    assert outside.keys() == []


async def test_cancel_after_the_deletion_leaves_nothing(store: Store, outside: redis_py.Redis) -> None:
    """A run that waited when its session was deleted may be cancelled by its client; the session stays deleted."""
    live = message(new_session())
    await store.own(live)
    want = message(live.session)
    await line_up(store, want)
    await store.conversations.delete(live.session)
    await store.conversations.cancel(want.session, want.run, b"{}")
    assert not outside.exists(live.session.hash)
