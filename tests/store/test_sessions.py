"""Who works on a session: begin in all its outcomes, the line, commit, claim, and what a displaced owner may not do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
import redis as redis_py

from agentrt.errors import ForeignState, OwnershipLost, ScriptError, StoreUnavailable
from agentrt.records import Item
from agentrt.store.begin import Begin, Busy, Conflict, Ended, Fork, Joined, Missing, Waiting
from agentrt.store.connection import Redis
from agentrt.store.journal import Batch
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.store.stage import (
    Store,
    again,
    dump,
    ending,
    lease_of,
    message,
    new_session,
    old_header,
    planned,
    recorded,
    without,
)

ITEM = b'{"id":"msg_1","type":"message"}'


async def commit(store: Store, owned: Owned, *lines: bytes, **changes: Any) -> int:
    return await store.sessions.commit(owned, ending(*(lines or (ITEM,)), **changes))


async def line_up(store: Store, want: Begin) -> Waiting:
    outcome = await store.begin(want)
    assert isinstance(outcome, Waiting), outcome
    return outcome


# --- begin ------------------------------------------------------------------------------------------------------------


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
    """RELIABILITY 16: a key that holds another tenant's state stops the request."""
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


# --- the line ---------------------------------------------------------------------------------------------------------


async def test_waiters_are_granted_in_the_order_they_came(store: Store) -> None:
    """First in, first out; a grant is entered with the token that waited, and everybody else still waits."""
    live = message(new_session())
    owner = await store.own(live)
    wants = [message(live.session) for _ in range(5)]
    for want in wants:
        outcome = await line_up(store, want)
        assert (outcome.run, outcome.live.run, outcome.live.token) == (want.run, live.run, live.token)
    fences = [owner.fence]
    for position, want in enumerate(wants):
        await commit(store, owner)
        for other in wants[position + 1 :]:
            assert (await line_up(store, other)).live.run == want.run
        owner = await store.own(want)
        assert (owner.token, owner.attempt, owner.first) == (want.token, 1, position + 1)
        assert len(owner.window) == position + 1, "a granted run reads the window anew"
        fences.append(owner.fence)
    assert fences == sorted(set(fences))


async def test_a_grant_is_for_its_waiter_alone(store: Store) -> None:
    """Between the grant and the waiter's return nobody else gets in."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session)
    await line_up(store, want)
    await commit(store, owner)
    assert isinstance(await store.begin(message(live.session)), Waiting)
    assert isinstance(await store.begin(again(want)), Joined)
    assert (await store.own(want)).run.id == want.run


async def test_a_place_is_kept(store: Store) -> None:
    """Who leaves and comes back in time stands where he stood; a grant passes over him meanwhile."""
    live = message(new_session())
    owner = await store.own(live)
    early, middle, late = (message(live.session) for _ in range(3))
    for want in (early, middle, late):
        await line_up(store, want)
    assert not await store.sessions.leave(early.session, early.run, early.token, keep_ms=60_000)
    await commit(store, owner)
    owner = await store.own(middle)
    back = again(early)
    outcome = await line_up(store, back)
    assert outcome.run == early.run, "the message has its place under the run id it came with first"
    await commit(store, owner)
    owner = await store.own(replace(back, run=early.run, by_key=True))
    assert isinstance(await store.begin(late), Waiting)
    await commit(store, owner)
    assert isinstance(await store.begin(late), Owned)


async def test_a_place_is_not_kept_for_ever(store: Store, outside: redis_py.Redis) -> None:
    """After its time the place is gone, and the message stands at the end."""
    live = message(new_session())
    owner = await store.own(live)
    early, late = message(live.session, by_key=True), message(live.session)
    await line_up(store, early)
    await line_up(store, late)
    waiters = orjson.loads(dump(outside, live.session)["waiters"])
    waiters[0][5] = 1
    outside.hset(live.session.hash, "waiters", orjson.dumps(waiters))
    assert not await store.sessions.leave(early.session, early.run, early.token, 60_000)
    await line_up(store, again(early))
    await commit(store, owner)
    assert isinstance(await store.begin(late), Owned)


async def test_leaving_at_the_moment_of_the_grant(store: Store) -> None:
    """Who was granted is told so: he owns the session and must work or hand it on."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session)
    await line_up(store, want)
    await commit(store, owner)
    assert await store.sessions.leave(want.session, want.run, want.token, 25_000)
    assert (await store.own(want)).attempt == 1


async def test_a_kept_place_in_an_idle_session(store: Store) -> None:
    """The line has only absent waiters: the session is idle, and the one who comes back owns it under his first run."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session)
    await line_up(store, want)
    await store.sessions.leave(want.session, want.run, want.token, 60_000)
    await commit(store, owner)
    back = again(want)
    outcome = await line_up(store, back)
    assert outcome.run == want.run
    assert (await store.own(replace(back, run=want.run, by_key=True))).attempt == 1


async def test_a_kept_place_with_a_lost_reply(store: Store) -> None:
    """The same, and the reply is lost: sending begin again gives the caller its place again, under its own token."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session)
    await line_up(store, want)
    await store.sessions.leave(want.session, want.run, want.token, 60_000)
    await commit(store, owner)
    back = again(want)
    assert await store.begin(back) == await store.begin(back)


async def test_cancel_of_a_waiting_run(store: Store) -> None:
    """It leaves the line at once, and its client is answered with the result it was cancelled with."""
    live = message(new_session())
    owner = await store.own(live)
    want = message(live.session, by_key=True)
    await line_up(store, want)
    assert await store.conversations.cancel(want.session, want.run, b"cancelled body") == "cancelled"
    assert await store.begin(want) == Ended(want.run)
    await commit(store, owner)
    state, _ = await store.events.read(want.session, want.run, -1)
    assert state is not None
    assert (state.status, state.result, state.live, state.in_line) == ("cancelled", b"cancelled body", None, False)


async def test_cancel_of_the_live_run(store: Store) -> None:
    """Only the owner ends its run: it sees the flag in the reply of its next script."""
    want = message(new_session())
    owned = await store.own(want)
    assert not await store.journal.emit(owned, Batch(0, b"a"))
    assert await store.conversations.cancel(want.session, want.run, b"") == "asked"
    assert await store.journal.emit(owned, Batch(1, b"b"))
    await commit(store, owned, status="cancelled")
    assert await store.conversations.cancel(want.session, want.run, b"") == "cancelled"
    assert await store.conversations.cancel(want.session, new_id(), b"") == "missing"


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


# --- lifetimes --------------------------------------------------------------------------------------------------------


async def test_every_key_has_its_ttl(redis: Redis, outside: redis_py.Redis) -> None:
    """Session keys live for the session TTL, the run's record at least a day from its end, the log its own time."""
    store = Store(redis, session_ttl_s=1000, run_ttl_s=2000, events_ttl_s=300)
    want = message(new_session())
    owned = await store.own(want)
    await store.leases.entering(lease_of(want))
    await store.journal.plan(owned, 0, b"{}", [(planned(owned), True)], Batch(0, b"a"))
    waiting = message(want.session)
    await line_up(store, waiting)
    assert all(ttl > 0 for key, ttl in ttls(outside).items() if not key.endswith(b":leases"))
    await commit(store, owned)
    run, session = owned.run, want.session
    expected = {session.hash: 1000, session.items: 1000, session.runs: 1000, run.events: 300}
    expected |= {run.hash: 86_400, run.effects: 86_400, session.run(waiting.run).hash: 1000}
    found = {key: ttl for key, ttl in ttls(outside).items() if not key.endswith(b":leases")}
    assert found.keys() == expected.keys()
    assert all(expected[key] - 10 < ttl <= expected[key] for key, ttl in found.items()), found


def ttls(outside: redis_py.Redis) -> dict[bytes, int]:
    return {key: outside.ttl(key) for key in outside.scan_iter()}


async def test_delete_leaves_nothing(store: Store, outside: redis_py.Redis) -> None:
    """Header, items, runs, journals, logs."""
    want = message(new_session())
    for _ in range(3):
        owned = await store.own(message(want.session))
        await store.journal.plan(owned, 0, b"{}", [(planned(owned), False)], Batch(0, b"a"))
        await commit(store, owned)
    assert await store.conversations.delete(want.session)
    assert outside.dbsize() == 0
    assert not await store.conversations.delete(want.session)
