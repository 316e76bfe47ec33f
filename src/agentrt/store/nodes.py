"""The servers behind a `Redis`: one, wherever the URL or the Sentinels say it is, or the masters of a Cluster.

Each has one multiplexed connection, which looks for its server anew whenever it must connect. On a Cluster the map of
the slots is read when something went wrong, by one task at a time; what a node says of a moved slot counts at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from agentrt.errors import ScriptError, StoreUnavailable
from agentrt.store.address import RedisOptions, Server, check_url, new_connection, read_url
from agentrt.store.discovery import find, read_slots
from agentrt.store.handover import TakenOver, take_over
from agentrt.store.multiplexer import Multiplexer, MultiplexerLimits, RedisReplyError, Stats
from agentrt.tasks import Errands, end

__all__ = ["REDIRECTS", "Nodes", "open_nodes"]

log = logging.getLogger("agentrt.nodes")

REDIRECTS = frozenset({"MOVED", "ASK"})
"""Errors of a Cluster's node that name another one."""

_REFRESH_PAUSE_S = 0.2
_CLUSTER_PATIENCE_S = 0.25
"""How long a unit waits for the connection to one master before it looks whether the slot has another."""


class Nodes(Protocol):
    """Which connection a unit goes to."""

    clustered: bool
    patience_s: float
    """How long to wait for a connection before asking for it again."""

    async def start(self, timeout_s: float) -> None:
        """Begin to connect, and wait until it is so, at most `timeout_s`."""
        ...

    async def aclose(self) -> None:
        """Close everything."""
        ...

    @property
    def connected(self) -> bool: ...

    @property
    def waiting(self) -> int: ...

    def line(self, slot: bytes) -> Multiplexer:
        """The connection to the slot's owner. Raises `StoreUnavailable` where nobody is known to own it."""
        ...

    def doubt(self) -> None:
        """Something went wrong: the owners may have changed."""
        ...

    def redirect(self, slot: bytes, problem: RedisReplyError) -> Multiplexer | None:
        """Take in a MOVED, or return the connection that an ASK names, for this once. Raises `ScriptError`."""
        ...


def open_nodes(
    options: RedisOptions, greeting: tuple[bytes, int], stats: Stats, on_connected: Callable[[], None]
) -> Nodes:
    """The servers that the URL names, not yet connected; every connection begins with the greeting.

    Raises `SettingsError`.
    """
    check_url(options.url, "AGENTRT_REDIS_URL")
    limits = MultiplexerLimits(reply_timeout_s=options.reply_timeout_s)

    def line(server: Server | None) -> Multiplexer:
        async def dial(protocol: asyncio.Protocol) -> TakenOver:
            connection = new_connection(options, server) if server else await find(options, b"")
            return await take_over(connection, protocol)

        made = Multiplexer(dial, limits, greeting=greeting, stats=stats)
        made.on_connected = on_connected
        return made

    if read_url(options.url).kind == "cluster":
        return _Cluster(options, line)
    return _Single(line(None))


class _Single:
    """One server at a time."""

    clustered = False

    def __init__(self, line: Multiplexer) -> None:
        self._line = line
        self.patience_s = float("inf")

    async def start(self, timeout_s: float) -> None:
        self._line.start()
        try:
            await self._line.wait_connected(timeout_s)
        except StoreUnavailable:
            return

    async def aclose(self) -> None:
        await self._line.aclose()

    @property
    def connected(self) -> bool:
        return self._line.connected

    @property
    def waiting(self) -> int:
        return self._line.waiting

    def line(self, slot: bytes) -> Multiplexer:  # noqa: ARG002 - it owns them all
        return self._line

    def doubt(self) -> None:
        """Nothing to do: whoever connects looks for the server anew."""

    def redirect(self, slot: bytes, problem: RedisReplyError) -> Multiplexer | None:  # noqa: ARG002
        raise ScriptError(f"this is a node of a Cluster, and redis+cluster:// says so: {problem}")


class _Cluster:
    """The masters of a Cluster."""

    clustered = True

    def __init__(self, options: RedisOptions, new_line: Callable[[Server | None], Multiplexer]) -> None:
        self._options = options
        self._new_line = new_line
        self._seeds = read_url(options.url).servers
        self._servers: frozenset[Server] = frozenset()
        self._masters: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._lines: dict[Server, Multiplexer] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closing = Errands()
        self._closed = False
        self.patience_s = _CLUSTER_PATIENCE_S

    async def start(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._read()
                for line in list(self._lines.values()):
                    await line.wait_connected(timeout_s)
        except (StoreUnavailable, TimeoutError):
            self.doubt()

    async def aclose(self) -> None:
        self._closed = True
        await end(self._refreshing)
        for line in self._lines.values():
            await line.aclose()
        await self._closing.aclose(self._options.connect_timeout_s)

    @property
    def connected(self) -> bool:
        return bool(self._lines) and all(line.connected for line in self._lines.values())

    @property
    def waiting(self) -> int:
        return sum(line.waiting for line in self._lines.values())

    def line(self, slot: bytes) -> Multiplexer:
        server = self._masters[key_slot(slot)]
        if server is None:
            self.doubt()
            raise StoreUnavailable("no node of the Cluster is known to own this slot", "clusterdown")
        return self._at(server)

    def _at(self, server: Server) -> Multiplexer:
        line = self._lines.get(server)
        if line is None:
            if self._closed:
                raise StoreUnavailable("the connection to Redis is closed", "closed")
            line = self._lines[server] = self._new_line(server)
            line.start()
        return line

    def doubt(self) -> None:
        if self._refreshing is None and not self._closed:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    def redirect(self, slot: bytes, problem: RedisReplyError) -> Multiplexer | None:
        _, number, where = str(problem).split(" ")[:3]
        host, _, port = where.rpartition(":")
        owner = self._masters[key_slot(slot)]
        server = Server(host or (owner.host if owner else self._seeds[0].host), int(port))
        if problem.code == "ASK":
            return self._at(server)
        self._masters[int(number)] = server
        self.doubt()  # one slot seldom moves alone
        return None

    async def _refresh(self) -> None:
        try:
            await self._read()
        except StoreUnavailable as error:
            log.info("the slots of the Cluster are not known anew: %s", error)
        finally:
            try:
                await asyncio.sleep(_REFRESH_PAUSE_S * random.uniform(0.5, 1.0))
            finally:
                self._refreshing = None

    async def _read(self) -> None:
        """Read the map, connect to masters that are new in it, and leave those that are none any more."""
        found = await read_slots(self._options, {*self._seeds, *self._servers, *self._lines})
        self._servers = found.servers
        self._masters = list(found.masters)
        masters = {server for server in found.masters if server is not None}
        for server in masters:
            self._at(server)
        for server in set(self._lines) - masters:
            self._closing.start(self._lines.pop(server).aclose())
