"""How long the keys of a session live, and that nothing is left of one that was deleted."""

from __future__ import annotations

import redis as redis_py

from agentrt.store.connection import Redis
from agentrt.store.journal import Batch
from tests.store.stage import (
    Store,
    commit,
    lease_of,
    line_up,
    message,
    new_session,
    planned,
)


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


async def test_a_log_goes_with_its_run(redis: Redis, outside: redis_py.Redis) -> None:
    """Also where logs are kept for longer: used again, the run's key finds no log whose numbers are ahead of it."""
    store = Store(redis, alone_ttl_s=100, events_ttl_s=300)
    owned = await store.own(message(new_session(), alone=True, by_key=True))
    await store.journal.emit(owned, Batch(0, b"a"))
    await commit(store, owned, alone=True, planned=False, last_event=1, events=b"b")
    assert 0 < outside.ttl(owned.run.events) <= outside.ttl(owned.run.hash) <= 100


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
