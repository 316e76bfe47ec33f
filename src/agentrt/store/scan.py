"""Looking for bytes in every key: the proof behind an erasure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agentrt.store.connection import Redis, Unit
from agentrt.store.slots import slot_of

__all__ = ["Scan"]

_COUNT = 500
_PAGE = 1_000


class Scan:
    """Reads the whole database, a page at a time: names, strings, hashes, lists, sets, sorted sets and streams."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def look(self, needles: Sequence[bytes], beside: bytes = b"\0") -> tuple[int, list[str]]:
        """(how many keys there are, names of those in which a needle stands), `beside` left out: a tombstone."""
        found = re.compile(b"|".join(re.escape(needle) for needle in needles if needle) or b"(?!)")
        cursor, keys, hits = b"0", 0, []
        while True:
            cursor, page = (await self._redis.execute(Unit(b"scan").command("SCAN", cursor, "COUNT", _COUNT)))[0]
            for key in page:
                keys += 1
                if key != beside and (found.search(key) or await self._holds(key, found)):
                    hits.append(key.decode(errors="replace"))
            if cursor == b"0":
                return keys, hits

    async def _ask(self, command: str, key: bytes, *rest: str | bytes | int) -> Any:
        return (await self._redis.execute(Unit(slot_of(key)).command(command, key, *rest)))[0]

    async def _holds(self, key: bytes, found: re.Pattern[bytes]) -> bool:
        kind = await self._ask("TYPE", key)
        match kind:
            case "string" | b"string":
                return _any(found, [await self._ask("GET", key)])
            case "list" | b"list":
                length = await self._ask("LLEN", key)
                for start in range(0, length, _PAGE):
                    if _any(found, await self._ask("LRANGE", key, start, start + _PAGE - 1)):
                        return True
                return False
            case "stream" | b"stream":
                return _any(found, await self._ask("XRANGE", key, "-", "+"))
            case "hash" | b"hash" | "set" | b"set" | "zset" | b"zset":
                name = kind.decode() if isinstance(kind, bytes) else kind
                return await self._pages({"hash": "HSCAN", "set": "SSCAN", "zset": "ZSCAN"}[name], key, found)
        return False

    async def _pages(self, command: str, key: bytes, found: re.Pattern[bytes]) -> bool:
        cursor = b"0"
        while True:
            cursor, page = await self._ask(command, key, cursor, "COUNT", _PAGE)
            if _any(found, page):
                return True
            if cursor == b"0":
                return False


def _any(found: re.Pattern[bytes], value: Any) -> bool:
    """Whether it stands anywhere in a reply, however nested."""
    if isinstance(value, bytes):
        return found.search(value) is not None
    return isinstance(value, list) and any(_any(found, part) for part in value)
