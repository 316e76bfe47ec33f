"""Jobs at the store: what was asked for is looked at, whatever gets lost."""

from __future__ import annotations

import redis as redis_py

from agentrt.store.jobs import Jobs
from agentrt.store.keys import QueueKeys
from tests.store.stage import Store

JOB = "user/acme/ann"
KEYS = QueueKeys()


async def test_done_sent_again_behind_a_new_wish(store: Store, outside: redis_py.Redis) -> None:
    """Its reply was lost, and the job was asked for meanwhile: that is another one, and stays."""
    jobs = Jobs(store.redis)
    await jobs.enter("acme", JOB)
    (one,) = await jobs.take(1, 60_000)
    assert await jobs.done(one)
    await jobs.enter("acme", JOB)
    assert not await jobs.done(one)
    (again,) = await jobs.take(1, 60_000)
    assert (again.name, again.tries) == (JOB, 1)
    assert await jobs.done(again)
    assert await jobs.done(again)
    assert not outside.exists(KEYS.jobs, KEYS.marks)


async def test_asked_for_again_while_it_is_worked_on(store: Store, outside: redis_py.Redis) -> None:
    jobs = Jobs(store.redis)
    await jobs.enter("acme", JOB)
    (one,) = await jobs.take(1, 60_000)
    await jobs.enter("acme", JOB)
    assert not await jobs.done(one)
    (again,) = await jobs.take(1, 60_000)
    assert await jobs.done(again)
    assert not outside.exists(KEYS.jobs, KEYS.marks)
