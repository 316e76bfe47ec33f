"""Finding the server that owns a slot: the URL's own, the master that Sentinels name, or one of a Cluster's masters.

Discovery is done anew for every connection, so nothing here is remembered and nothing can be out of date.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from agentrt.errors import StoreUnavailable
from agentrt.store.address import Address, RedisOptions, Server, connect_kwargs, new_connection, read_url

__all__ = ["SlotMap", "find", "read_slots"]

_ASK_S = 0.5
"""Longest wait for a Sentinel, or for a node that is asked for the slots."""
_ASK_AT_ONCE = 5


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Who owns the slots of a Cluster. `masters[slot]` is None where nobody does; `servers` names the replicas too."""

    masters: tuple[Server | None, ...]
    servers: frozenset[Server]


class _Named(NamedTuple):
    """A master as one Sentinel has it."""

    server: Server
    epoch: int
    down: bool


async def find(options: RedisOptions, slot: bytes) -> AbstractConnection:
    """A connection, not yet connected, to the server that owns `slot` (what a key's braces hold).

    Raises `StoreUnavailable` where it cannot be found out. The other errors are those of connecting.
    """
    address = read_url(options.url)
    if address.kind == "sentinel":
        return new_connection(options, await _master(options, address))
    if address.kind == "cluster":
        server = (await read_slots(options, address.servers)).masters[key_slot(slot)]
        if server is None:
            raise StoreUnavailable("nobody owns this slot of the Cluster", "clusterdown")
        return new_connection(options, server)
    return new_connection(options)


async def _master(options: RedisOptions, address: Address) -> Server:
    """The master of the newest configuration, where one of the Sentinels that have it does not believe it to be down.

    All are asked: behind a fail-over one that has not heard of it still names the old master, which may be back, with
    nothing of what was acknowledged, and says of itself that it is one.
    """
    kwargs = {**connect_kwargs(options), **address.sentinel_kwargs}
    kwargs.update(socket_timeout=_ASK_S, socket_connect_timeout=_ASK_S)
    tls = {name: value for name, value in address.kwargs.items() if name.startswith("ssl_")}
    if tls or "connection_class" in address.kwargs:
        kwargs.update(tls, ssl=True)
    sentinels = Sentinel(address.servers, sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call]
    try:
        told = await asyncio.gather(*(_named(one, address.master) for one in sentinels.sentinels))
    finally:
        await sentinels.aclose()
    known = [one for one in told if one is not None]
    newest = max((one.epoch for one in known), default=0)
    for one in known:
        if one.epoch == newest and not one.down:
            return one.server
    raise StoreUnavailable(f"the Sentinels name no master {address.master!r}")


async def _named(sentinel: Any, master: str) -> _Named | None:
    """What a Sentinel says of a master; None where it does not answer in time, or does not know it.

    While it fails over, SENTINEL MASTERS still describes the old master, under the new epoch, and not as down once it
    is back; the new one's address is what GET-MASTER-ADDR-BY-NAME gives. Asked in this order, an address is never older
    than its epoch.
    """
    try:
        async with asyncio.timeout(_ASK_S):
            state: dict[str, Any] | None = (await sentinel.sentinel_masters()).get(master)
            found = await sentinel.sentinel_get_master_addr_by_name(master)
    except (RedisError, OSError, RuntimeError):  # time-outs too; the last is uvloop's, of a connection that was reset
        return None
    if state is None or found is None:
        return None
    host = found[0].decode() if isinstance(found[0], bytes) else str(found[0])
    server, described = Server(host, int(found[1])), Server(str(state["ip"]), int(state["port"]))
    down = server == described and (state["is_sdown"] or state["is_odown"])
    return _Named(server, int(state["config-epoch"]), down)


async def read_slots(options: RedisOptions, servers: Iterable[Server]) -> SlotMap:
    """The slots as some node knows them. A few are asked at once, so that a frozen one costs no time.

    Raises `StoreUnavailable` when none of those asked answers in time.
    """
    known = list(dict.fromkeys(servers))
    asked = random.sample(known, min(_ASK_AT_ONCE, len(known)))
    loop = asyncio.get_running_loop()
    asking = {loop.create_task(_ask(options, server)) for server in asked}
    waiting = asking
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (found := task.result()) is not None:
                    return found
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    raise StoreUnavailable("no node of the Cluster says who owns its slots")


async def _ask(options: RedisOptions, server: Server) -> SlotMap | None:
    connection = new_connection(options, server)
    try:
        async with asyncio.timeout(_ASK_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("CLUSTER", "SLOTS")
            reply = await connection.read_response()
    except (RedisError, OSError, RuntimeError):
        return None
    finally:
        await connection.disconnect(nowait=True)
    return _parse(reply, server) if reply else None


def _parse(reply: list[list[object]], asked: Server) -> SlotMap:
    """`CLUSTER SLOTS`: [first, last, master, replica, ...]; a node without a host is the one that was asked."""
    masters: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    servers: set[Server] = set()
    for first, last, *nodes in reply:
        named = [_node(node, asked) for node in nodes]
        servers.update(named)
        assert isinstance(first, int) and isinstance(last, int)
        masters[first : last + 1] = [named[0]] * (last + 1 - first)
    return SlotMap(tuple(masters), frozenset(servers))


def _node(node: object, asked: Server) -> Server:
    assert isinstance(node, list)
    host = (node[0] or b"").decode()
    return Server(asked.host if host in {"", "?"} else host, int(node[1]))
