"""What operators look at: pods that said that they live, and the queue by class."""

from __future__ import annotations

from dataclasses import replace

import redis as redis_py

from agentrt.records import SCHEMA_VERSION
from agentrt.store.inspection import Inspection
from agentrt.store.keys import SessionKeys, lease_member, new_id, pods_key
from agentrt.store.ownership import StoreConfig
from agentrt.store.queue import Queue, Urgency
from agentrt.store.schema import Schema
from tests.store.stage import Store


async def test_a_pod_is_listed_until_it_leaves_or_falls_silent(store: Store, outside: redis_py.Redis) -> None:
    inspection, schema = Inspection(store.redis), Schema(store.redis)
    said = {"pid": 7, "schema": SCHEMA_VERSION}
    for name in ("b", "a", "c"):
        await schema.seen(name, {"pid": 7})
    assert [(pod.name, pod.told) for pod in await inspection.pods()] == [(name, said) for name in "abc"]
    await schema.seen("b", None)
    assert [pod.name for pod in await inspection.pods()] == ["a", "c"]
    at, _, told = outside.hget(pods_key(), "a").partition(b"\n")
    outside.hset(pods_key(), "a", b"%d\n%b" % (int(at) - 10_001, told))  # it was killed ten seconds ago
    assert [pod.name for pod in await inspection.pods()] == ["c"]
    await schema.seen("c", {"pid": 8})
    assert outside.hkeys(pods_key()) == [b"c"]  # and it is not kept


async def test_the_queue_by_class(store: Store) -> None:
    inspection, queue = Inspection(store.redis), Queue(store.redis, replace(StoreConfig(pod="p")))
    for count, urgency in ((1, Urgency.RECOVERED), (3, Urgency.INTERACTIVE), (2, Urgency.BACKGROUND)):
        for number in range(count):
            session = SessionKeys(f"t{number}", new_id())
            await queue.enqueue(lease_member(session, new_id(), new_id()), urgency)
    state = await inspection.queue()
    assert state.classes == {"recovered": 1, "interactive": 3, "background": 2}
    assert (state.depth, state.leased, state.dead) == (6, 0, 0)
    assert state.oldest_s >= 0
