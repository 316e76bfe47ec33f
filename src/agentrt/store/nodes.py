"""The servers behind a `Redis`: one, wherever the URL or the Sentinels say it is, or the masters of a Cluster.

Each has one multiplexed connection, which looks for its server anew whenever it must connect. On a Cluster the map of
the slots is read when something went wrong, by one task at a time; what a node says of a moved slot counts at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from agentrt.errors import ScriptError, StoreUnavailable
from agentrt.store.acknowledged import Acknowledged
from agentrt.store.address import RedisOptions, Server, check_url, new_connection, read_url
from agentrt.store.discovery import find, read_slots
from agentrt.store.handover import TakenOver, take_over
from agentrt.store.multiplexer import Multiplexer, MultiplexerLimits, RedisReplyError, Stats
from agentrt.tasks import Errands, end

__all__ = ["REDIRECTS", "Line", "Node", "Nodes", "open_nodes"]

log = logging.getLogger("agentrt.nodes")

REDIRECTS = frozenset({"MOVED", "ASK"})
"""Errors of a Cluster's node that name another one."""

_REFRESH_PAUSE_S = 0.2
_CLUSTER_PATIENCE_S = 0.25
"""How long a unit waits for the connection to one master before it looks whether the slot has another."""


class Line(Protocol):
    """A connection that units are submitted to, see `Multiplexer`."""

    async def wait_connected(self, timeout_s: float) -> None: ...

    def submit(self, data: bytes, count: int) -> asyncio.Future[list[Any]]: ...


class Node:
    """One server: the connection that everything shares, and one for what replicas must acknowledge, if any do."""

    def __init__(self, shared: Multiplexer, acknowledged: Acknowledged | None) -> None:
        self.shared = shared
        self._acknowledged = acknowledged

    def start(self) -> None:
        """Begin to connect."""
        self.shared.start()
        if self._acknowledged is not None:
            self._acknowledged.start()

    async def aclose(self) -> None:
        """Close both."""
        await self.shared.aclose()
        if self._acknowledged is not None:
            await self._acknowledged.aclose()

    @property
    def waiting(self) -> int:
        """Units without a reply so far."""
        return self.shared.waiting + (self._acknowledged.waiting if self._acknowledged is not None else 0)

    def line(self, acknowledged: bool) -> Line:
        """The connection for a unit."""
        return self._acknowledged if acknowledged and self._acknowledged is not None else self.shared


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

    def lines(self) -> list[Line]:
        """The connections to all servers."""
        ...

    def line(self, slot: bytes, acknowledged: bool) -> Line:
        """The connection to the slot's owner. Raises `StoreUnavailable` where nobody is known to own it."""
        ...

    def doubt(self) -> None:
        """Something went wrong: the owners may have changed."""
        ...

    def redirect(self, slot: bytes, problem: RedisReplyError, acknowledged: bool) -> Line | None:
        """Take in a MOVED, or return the connection that an ASK names, for this once. Raises `ScriptError`."""
        ...


def open_nodes(
    options: RedisOptions, greeting: tuple[bytes, int], stats: Stats, on_connected: Callable[[], None]
) -> Nodes:
    """The servers that the URL names, not yet connected; every connection begins with the greeting.

    Raises `SettingsError`.
    """
    check_url(options.url, "AGENTRT_REDIS_URL")
    wait_s = options.wait_timeout_ms / 1000

    def node(server: Server | None) -> Node:
        async def dial(protocol: asyncio.Protocol) -> TakenOver:
            connection = new_connection(options, server) if server else await find(options, b"")
            return await take_over(connection, protocol)

        shared = Multiplexer(dial, MultiplexerLimits(options.reply_timeout_s), greeting=greeting, stats=stats)
        shared.on_connected = on_connected
        if not options.wait_replicas:
            return Node(shared, None)
        patient = MultiplexerLimits(options.reply_timeout_s + wait_s)
        own = Multiplexer(dial, patient, greeting=greeting, stats=stats)
        acknowledged = Acknowledged(own, options.wait_replicas, options.wait_timeout_ms)

        def reconnected() -> None:
            acknowledged.renew(shared.lost_at)
            on_connected()

        shared.on_connected = reconnected
        return Node(shared, acknowledged)

    if read_url(options.url).kind == "cluster":
        return _Cluster(options, node)
    return _Single(node(None))


class _Single:
    """One server at a time."""

    clustered = False

    def __init__(self, node: Node) -> None:
        self._node = node
        self.patience_s = float("inf")

    async def start(self, timeout_s: float) -> None:
        self._node.start()
        try:
            await self._node.shared.wait_connected(timeout_s)
        except StoreUnavailable:
            return

    async def aclose(self) -> None:
        await self._node.aclose()

    @property
    def connected(self) -> bool:
        return self._node.shared.connected

    @property
    def waiting(self) -> int:
        return self._node.waiting

    def lines(self) -> list[Line]:
        return [self._node.shared]

    def line(self, slot: bytes, acknowledged: bool) -> Line:  # noqa: ARG002 - it owns them all
        return self._node.line(acknowledged)

    def doubt(self) -> None:
        """Nothing to do: whoever connects looks for the server anew."""

    def redirect(self, slot: bytes, problem: RedisReplyError, acknowledged: bool) -> Line | None:  # noqa: ARG002
        raise ScriptError(f"this is a node of a Cluster, and redis+cluster:// says so: {problem}")


class _Cluster:
    """The masters of a Cluster."""

    clustered = True

    def __init__(self, options: RedisOptions, new_node: Callable[[Server | None], Node]) -> None:
        self._options = options
        self._new_node = new_node
        self._seeds = read_url(options.url).servers
        self._servers: frozenset[Server] = frozenset()
        self._masters: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._nodes: dict[Server, Node] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closing = Errands()
        self._closed = False
        self.patience_s = _CLUSTER_PATIENCE_S

    async def start(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._read()
                for node in list(self._nodes.values()):
                    await node.shared.wait_connected(timeout_s)
        except (StoreUnavailable, TimeoutError):
            self.doubt()

    async def aclose(self) -> None:
        self._closed = True
        await end(self._refreshing)
        for node in self._nodes.values():
            await node.aclose()
        await self._closing.aclose(self._options.connect_timeout_s)

    @property
    def connected(self) -> bool:
        return bool(self._nodes) and all(node.shared.connected for node in self._nodes.values())

    @property
    def waiting(self) -> int:
        return sum(node.waiting for node in self._nodes.values())

    def lines(self) -> list[Line]:
        return [node.shared for node in self._nodes.values()]

    def line(self, slot: bytes, acknowledged: bool) -> Line:
        server = self._masters[key_slot(slot)]
        if server is None:
            self.doubt()
            raise StoreUnavailable("no node of the Cluster is known to own this slot", "clusterdown")
        return self._at(server).line(acknowledged)

    def _at(self, server: Server) -> Node:
        node = self._nodes.get(server)
        if node is None:
            if self._closed:
                raise StoreUnavailable("the connection to Redis is closed", "closed")
            node = self._nodes[server] = self._new_node(server)
            node.start()
        return node

    def doubt(self) -> None:
        if self._refreshing is None and not self._closed:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    def redirect(self, slot: bytes, problem: RedisReplyError, acknowledged: bool) -> Line | None:
        _, number, where = str(problem).split(" ")[:3]
        host, _, port = where.rpartition(":")
        owner = self._masters[key_slot(slot)]
        server = Server(host or (owner.host if owner else self._seeds[0].host), int(port))
        if problem.code == "ASK":
            return self._at(server).line(acknowledged)
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
        found = await read_slots(self._options, {*self._seeds, *self._servers, *self._nodes})
        self._servers = found.servers
        self._masters = list(found.masters)
        masters = {server for server in found.masters if server is not None}
        for server in masters:
            self._at(server)
        for server in set(self._nodes) - masters:
            self._closing.start(self._nodes.pop(server).aclose())
