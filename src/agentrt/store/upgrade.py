"""Bringing a session of an older schema version to this one."""

from __future__ import annotations

from agentrt.errors import StoreUnavailable
from agentrt.records import upcast
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys

__all__ = ["upgrade"]


async def upgrade(redis: Redis, keys: SessionKeys, found: bytes, ttl_s: int) -> None:
    """Bring the header of an idle session to this version; whoever is second finds it done."""
    raw = (await redis.execute(Unit(keys.tag).command("HGETALL", keys.hash)))[0]
    header = {raw[i].decode(): raw[i + 1].decode() for i in range(0, len(raw), 2)}
    if not header or header.get("v") != found.decode():
        return
    if header.get("owner"):
        raise StoreUnavailable(f"session {keys.id}: an older pod works on it", "older")
    fields = [part for pair in upcast(header).items() for part in pair]
    unit = Unit(keys.tag).call(
        redis.scripts["upgrade"],
        (keys.hash,),
        fields,
        from_v=found,
        ttl=ttl_s,
    )
    await redis.execute(unit)
