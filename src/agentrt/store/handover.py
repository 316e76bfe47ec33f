"""The one place that touches redis-py's private attributes: taking over the transport of a connected connection.

redis-py connects: TCP, TLS, unix sockets, AUTH, SELECT, discovery. Then its transport gets our protocol, because its
one-command-one-reply interface costs ten times as much CPU as the commands (see docs/decisions.md). The four private
names are `_writer`, `_reader` (and its `_buffer`) and `_parser`; `pyproject.toml` pins redis-py and a test holds them.
"""

from __future__ import annotations

import asyncio
from typing import cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from agentrt.errors import StoreUnavailable

__all__ = ["TakenOver", "take_over"]


class TakenOver:
    """A redis-py connection whose transport speaks to another protocol."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self.transport = transport

    async def close(self) -> None:
        """Let redis-py close what it opened."""
        await self._connection.disconnect(nowait=True)


async def take_over(connection: AbstractConnection, protocol: asyncio.Protocol) -> TakenOver:
    """Connect with redis-py, then move the transport to `protocol`.

    Raises `StoreUnavailable` when redis-py cannot connect or when bytes are left over from its handshake.
    """
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except (RedisError, RuntimeError) as error:  # uvloop's, for a write into what the peer has just reset
        raise StoreUnavailable(f"cannot connect to Redis: {error}", reason_of(error)) from error
    writer, reader = connection._writer, connection._reader
    if writer is None or reader is None or await connection.can_read():
        await connection.disconnect(nowait=True)
        raise StoreUnavailable("the connection to Redis is not clean after its handshake")
    transport = writer.transport
    protocol.previous = transport.get_protocol()  # type: ignore[attr-defined]
    transport.set_protocol(protocol)
    return TakenOver(connection, cast(asyncio.Transport, transport))


def reason_of(error: Exception) -> str:
    """The code of an error reply where there is one, else `unreachable`. redis-py drops some codes, so look twice."""
    known = {
        "OutOfMemoryError": "oom",
        "ReadOnlyError": "readonly",
        "BusyLoadingError": "loading",
        "NoPermissionError": "noperm",
        "AuthenticationError": "noauth",
        "AuthenticationWrongNumberOfArgsError": "noauth",
        "ClusterDownError": "clusterdown",
        "MasterDownError": "masterdown",
        "TimeoutError": "timeout",
    }
    name = type(error).__name__
    if name in known:
        return known[name]
    code = str(error).partition(" ")[0]
    if code.isupper() and code.isalpha():
        return code.lower()
    return "unreachable"
