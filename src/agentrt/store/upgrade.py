"""Bringing an idle session of an older schema version to the one that is written."""

from __future__ import annotations

from agentrt.errors import StoreUnavailable
from agentrt.records import oldest_known, upcast
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys

__all__ = ["upgrade"]


async def upgrade(redis: Redis, keys: SessionKeys, writes: int) -> None:
    """Bring the header of an idle session to version `writes`; whoever is second finds it done.

    A session that somebody works on stays as it is. Raises `StoreUnavailable` where this pod could not read it then.
    """
    raw = (await redis.execute(Unit(keys.tag).command("HGETALL", keys.hash)))[0]
    header = {raw[i].decode(): raw[i + 1].decode() for i in range(0, len(raw), 2)}
    if not header:
        return
    if header.get("owner"):
        if int(header["v"]) < oldest_known():
            raise StoreUnavailable(f"session {keys.id}: an older pod works on it", "older")
        return
    if int(header["v"]) >= writes:
        return
    fields = [part for pair in (*header.items(), *upcast(header, writes).items()) for part in pair]
    unit = Unit(keys.tag).call(redis.scripts["upgrade"], (keys.hash,), fields, count=len(header))
    await redis.execute(unit)
