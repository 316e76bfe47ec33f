"""Runs that change hands: claims, of which one wins, and failures that are resumed."""

from __future__ import annotations

import asyncio

import orjson
import redis as redis_py

from agentrt.records import Item
from agentrt.store.begin import Begin, Ended
from agentrt.store.journal import Batch
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.store.stage import (
    ITEM,
    Store,
    again,
    commit,
    ending,
    line_up,
    message,
    new_session,
    planned,
    recorded,
)

# --- claim ------------------------------------------------------------------------------------------------------------


async def test_of_many_claimants_one_wins(store: Store) -> None:
    """Compare and set: one new owner, a higher fence, the next attempt, and all that is needed to go on."""
    want = message(new_session(), user="ann", input=b"[1]")
    dead = await store.own(want)
    await store.journal.plan(dead, 0, b"the plan", [(planned(dead), True)], Batch())
    outcomes = await asyncio.gather(*(store.claim(dead) for _ in range(20)))
    (winner,) = [outcome for outcome in outcomes if outcome is not None]
    assert winner.fence > dead.fence
    assert (winner.attempt, winner.first, winner.user) == (2, 0, "ann")
    assert winner.record is not None
    assert (winner.record["input"], winner.record["plan:0"]) == (b"[1]", b"the plan")
    key = planned(dead).key
    assert set(winner.record["effects"]) == {key, key + "@"}
    await commit(store, winner)


async def test_a_claim_sent_twice_is_one(store: Store) -> None:
    """Its reply may be lost: the same token is answered alike, the attempt counted once."""
    dead = await store.own(message(new_session()))
    token = new_id()
    first, second = await store.claim(dead, token), await store.claim(dead, token)
    assert first is not None
    assert second is not None
    assert (first.fence, first.attempt) == (second.fence, second.attempt)


async def test_claim_after_the_end(store: Store) -> None:
    """None: the run is committed, the next one lives, or the session is gone. None of them is disturbed."""
    want = message(new_session())
    dead = await store.own(want)
    await commit(store, dead)
    assert await store.claim(dead) is None
    live = await store.own(message(want.session))
    assert await store.claim(dead) is None
    assert await store.sessions.owns(live)
    await store.conversations.delete(want.session)
    assert await store.claim(live) is None


async def test_claim_before_the_lease_has_run_out(store: Store) -> None:
    """Early, because the pod seems gone: refused while an effect may be under way, done when it is recorded."""
    dead = await store.own(message(new_session()))
    await store.journal.plan(dead, 0, b"{}", [(planned(dead), True)], Batch())
    assert await store.claim(dead, early=True) is None
    assert await store.sessions.owns(dead)
    await store.journal.record(dead, "0", [recorded(planned(dead))], Batch())
    assert await store.claim(dead, early=True) is not None


async def test_claim_of_a_granted_waiter(store: Store) -> None:
    """Its pod died between the grant and its return: the claimant finds what was asked."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session, input=b"[2]")
    await line_up(store, want)
    await commit(store, owner)
    granted = Owned(want.session, want.session.run(want.run), want.token, 0, 0, 0)
    claimed = await store.claim(granted)
    assert claimed is not None
    assert (claimed.attempt, claimed.first) == (1, 1)
    assert claimed.record is not None
    assert claimed.record["input"] == b"[2]"
    await commit(store, claimed)


# --- a failure that may be resumed ------------------------------------------------------------------------------------


async def failed(store: Store, want: Begin, *lines: bytes) -> None:
    await store.sessions.commit(await store.own(want), ending(*lines, status="failed", retry=True))


async def test_a_resumable_failure_resumes(store: Store, outside: redis_py.Redis) -> None:
    """Sending it again goes on with the same run: next attempt, its own items not taken for its past."""
    await commit(store, await store.own(message(session := new_session())), b'{"id":"past"}')
    want = message(session, by_key=True)
    await failed(store, want, b'{"id":"mine"}')
    owned = await store.own(again(want))
    assert (owned.run.id, owned.attempt, owned.first) == (want.run, 2, 1)
    assert [item.id for item in owned.window] == ["past"]
    assert await commit(store, owned, b'{"id":"mine"}', b'{"id":"more"}', skip=1) == 3
    ids = [orjson.loads(line)["id"] for line in outside.lrange(session.items, 0, -1)]
    assert ids == ["past", "mine", "more"]
    assert await store.begin(again(want)) == Ended(want.run)


async def test_a_resumed_run_keeps_its_whole_past(store: Store) -> None:
    """Numbers of its own that stayed empty do not cost it items of the turns before."""
    await commit(store, await store.own(message(session := new_session())), b'{"id":"0"}', b'{"id":"1"}')
    want = message(session, by_key=True)
    await failed(store, want, b'{"id":"2"}', b"", b'{"id":"4"}')
    owned = await store.own(again(want))
    assert [item.id for item in owned.window] == ["0", "1"]


async def test_a_failure_resumes_only_at_the_tail(store: Store) -> None:
    """When the conversation has gone on, its failure is replayed."""
    want = message(new_session(), by_key=True)
    await failed(store, want, ITEM)
    await commit(store, await store.own(message(want.session)))
    assert await store.begin(again(want)) == Ended(want.run)


async def test_items_in_between_end_the_chance_to_resume(store: Store) -> None:
    """Also when only the client appended something."""
    want = message(new_session(), by_key=True)
    await failed(store, want, ITEM)
    await store.conversations.append(want.session, "op", 1, [Item(ITEM)])
    assert await store.begin(again(want)) == Ended(want.run)
