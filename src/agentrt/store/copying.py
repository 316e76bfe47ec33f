"""A session that begins with another one's items: read and written in portions, however long the history is.

The items come first, the header last: until then there is no session, and a copy that is begun again goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from agentrt.errors import StoreUnavailable
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys

__all__ = ["portions", "write_portion"]

_ITEMS = 500
"""So many are read at once, and at most written."""
_BYTES = 1 << 20
"""A portion is closed when it has as much."""
_UNFINISHED_S = 300
"""How long what was copied is kept while no more comes."""


async def portions(redis: Redis, source: SessionKeys, count: int) -> AsyncIterator[list[bytes]]:
    """The stored lines of the first `count` items, cut alike whenever they are read; fewer where the session goes."""
    for start in range(0, count, _ITEMS):
        stop = min(start + _ITEMS, count) - 1
        lines = (await redis.execute(Unit(source.tag).command("LRANGE", source.items, start, stop)))[0]
        portion, size = list[bytes](), 0
        for line in lines:
            portion.append(line)
            size += len(line)
            if size >= _BYTES:
                yield portion
                portion, size = [], 0
        if portion:
            yield portion


async def write_portion(redis: Redis, to: SessionKeys, at: int, lines: Sequence[bytes]) -> None:
    """Lines from number `at` on, of a session that is not there yet. Raises `StoreUnavailable` where those before are
    gone."""
    script, keys = redis.scripts["copy"], (to.hash, to.items)
    reply = (await redis.execute(Unit(to.tag).call(script, keys, lines, at=at, ttl=_UNFINISHED_S)))[0]
    if reply[0] == b"moved":
        raise StoreUnavailable(f"session {to.id}: {reply[1]} of {at} copied items are there", "busy")
