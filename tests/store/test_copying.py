"""A session that begins with another one's items: any number of them, whole, once."""

from __future__ import annotations

import asyncio

import pytest
import redis as redis_py

from agentrt.errors import StoreUnavailable
from agentrt.store.copying import write_portion
from agentrt.store.keys import SessionKeys
from tests.store.stage import Store, commit, dump, message, new_session

LINE = b'{"id":"m","t":"%b"}' % (b"x" * 1000)


async def conversation(store: Store, outside: redis_py.Redis, count: int) -> SessionKeys:
    """A history of `count` items, no two alike."""
    owned = await store.own(message(new_session()))
    await commit(store, owned)
    for start in range(1, count, 1000):
        outside.rpush(owned.session.items, *(b"%d %b" % (n, LINE) for n in range(start, min(start + 1000, count))))
    return owned.session


def items(outside: redis_py.Redis, session: SessionKeys) -> list[bytes]:
    return outside.lrange(session.items, 0, -1)


async def test_a_history_that_no_single_write_could_take(store: Store, outside: redis_py.Redis) -> None:
    """19 MB: in portions, each of which Redis does in a moment."""
    source, to = await conversation(store, outside, 19_000), new_session()
    outside.config_resetstat()
    assert await store.conversations.copy(source, 19_000, to, op="o", user="ann", head="h")
    assert outside.info("commandstats")["cmdstat_evalsha"]["calls"] >= 19_000 / 500
    assert items(outside, to) == items(outside, source)
    header = dump(outside, to)
    assert (header["seq"], header["user"], header["head"]) == ("19000", "ann", "h")
    assert outside.ttl(to.items) == outside.ttl(to.hash) > 86_400


async def test_copied_twice_at_once(store: Store, outside: redis_py.Redis) -> None:
    """By two pods, or sent again: one session, with each item once; also when it went on meanwhile."""
    source, to = await conversation(store, outside, 1700), new_session()
    copied = [store.conversations.copy(source, 1700, to, op="o", user="", head="h") for _ in range(4)]
    assert await asyncio.gather(*copied) == [True] * 4
    assert items(outside, to) == items(outside, source)
    await commit(store, await store.own(message(to)))
    assert await store.conversations.copy(source, 1700, to, op="o", user="", head="h")
    assert len(items(outside, to)) == 1701


@pytest.mark.parametrize("count", [3, 1200])
async def test_what_another_copy_left_is_written_over(store: Store, outside: redis_py.Redis, count: int) -> None:
    """A message under the same key that was cut off may have been another one."""
    source, to = await conversation(store, outside, count), new_session()
    await write_portion(store.redis, to, 0, [b"another"] * 600)
    assert 0 < outside.ttl(to.items) <= 300
    assert await store.conversations.copy(source, count, to, op="o", user="", head="h")
    assert items(outside, to) == items(outside, source)


async def test_what_goes_while_it_is_copied(store: Store, outside: redis_py.Redis) -> None:
    """No session begins in the middle of a history, nor with a part of one."""
    source, to = await conversation(store, outside, 600), new_session()
    with pytest.raises(StoreUnavailable):
        await write_portion(store.redis, to, 500, [LINE])
    with pytest.raises(StoreUnavailable):
        await store.conversations.create(to, op="o", lines=[LINE], at=500)
    assert not await store.conversations.copy(source, 700, to, op="o", user="", head="h")
    assert not outside.exists(to.hash)
