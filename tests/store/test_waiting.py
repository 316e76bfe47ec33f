"""The line before a session: who is granted it, who keeps a place, who leaves; and cancellation."""

from __future__ import annotations

from dataclasses import replace

import orjson
import redis as redis_py

from agentrt.store.begin import Ended, Joined, Waiting
from agentrt.store.journal import Batch
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.store.stage import (
    Store,
    again,
    commit,
    dump,
    line_up,
    message,
    new_session,
)


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


async def test_ones_own_place_comes_before_the_same_words_under_a_key(store: Store) -> None:
    """Or the first would leave its own place to nobody, and be told of the other's answer."""
    live = await store.own(message(new_session()))
    first = message(live.session)
    await line_up(store, first)
    keyed = message(live.session, fingerprint=first.fingerprint, by_key=True)
    await line_up(store, keyed)
    assert (await line_up(store, first)).run == first.run
    assert (await line_up(store, keyed)).run == keyed.run
