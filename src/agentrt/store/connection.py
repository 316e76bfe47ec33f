"""The way to Redis: units of commands in, replies out; resending and the classes of errors are here.

A `Unit` is a script with the reads pipelined behind it, all of one slot. Units hold scripts that are idempotent by
their op tokens, and reads; nothing else. That is why a unit whose reply was lost may be sent again, whole, and why this
is the only place that does it. Which server a unit goes to is the business of `nodes`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from agentrt.errors import NotAcknowledged, OutcomeUnknown, ScriptError, StoreUnavailable
from agentrt.store.address import RedisOptions, check_url, new_connection
from agentrt.store.multiplexer import MultiplexerLimits, RedisReplyError, Stats
from agentrt.store.nodes import REDIRECTS, Line, Nodes, open_nodes
from agentrt.store.scripts import Operand, Script, load_all, pack
from agentrt.store.slots import Slot
from agentrt.store.tenants import TenantNodes, TenantUsers

__all__ = ["DOWN", "Redis", "RedisOptions", "Sent", "Unit", "check_url", "new_connection"]

DOWN = frozenset(
    {"READONLY", "LOADING", "MISCONF", "OOM", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "BUSY"}
    | {"NOAUTH", "NOPERM", "WRONGPASS", "UNKILLABLE"}
)
"""Error codes that say: this Redis does not serve. The request is answered 503, readiness fails."""

_PASSING = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"})
"""Of these, the ones that a moment may cure: sent again within the budget."""

_AT_ONCE = REDIRECTS | {"NOSCRIPT"}
"""Cured by sending it again in another way, without a pause; two nodes that point at each other do not get many."""
_DETOURS_MAX = 4
_ASKING = pack("ASKING")


class Unit:
    """Commands that leave together, for one slot, and are answered together."""

    __slots__ = ("acknowledged", "behind", "count", "parts", "slot")

    def __init__(self, slot: bytes) -> None:
        self.slot = slot
        self.count = 0
        self.acknowledged = False
        """Whether it counts only when replicas have it, where that is configured."""
        self.behind: Sent | None = None
        """What must have happened before this one is sent again: it left first, and may be what got lost."""
        self.parts: list[bytes] = []

    def call(self, script: Script, keys: Sequence[bytes], tail: Sequence[Operand] = (), **argv: Operand) -> Unit:
        """Add a script."""
        self.parts.append(script.pack(keys, tail, **argv))
        self.count += 1
        return self

    def packed(self, command: bytes) -> Unit:
        """Add a script that is packed already, see `Script.prepare`."""
        self.parts.append(command)
        self.count += 1
        return self

    def command(self, *command: Operand) -> Unit:
        """Add a command that may be repeated without harm: a read, an UNLINK."""
        self.parts.append(pack(*command))
        self.count += 1
        return self

    def acknowledge(self, when: bool = True) -> Unit:
        """Let it count only when replicas have it, if `when`: else it raises `NotAcknowledged`."""
        self.acknowledged = when
        return self

    @property
    def data(self) -> bytes:
        """The packed commands."""
        return self.parts[0] if self.count == 1 else b"".join(self.parts)


class _Sending:
    """A unit as it is sent again: behind what loads the scripts, or each command behind an ASKING."""

    __slots__ = ("_first", "_step", "count", "data")

    def __init__(self, unit: Unit, loads: bytes = b"", n_loads: int = 0, *, asking: bool = False) -> None:
        self._step = 2 if asking else 1
        self._first = n_loads + asking
        self.data = loads + (b"".join(_ASKING + part for part in unit.parts) if asking else unit.data)
        self.count = n_loads + unit.count * self._step

    def replies(self, all_replies: list[Any]) -> list[Any] | RedisReplyError:
        """The unit's own replies, or the first error among them."""
        own = all_replies[self._first :: self._step]
        return next((reply for reply in own if type(reply) is RedisReplyError), own)


class Sent:
    """A unit on its way; `await` it for the replies, exactly as from `Redis.execute`."""

    def __init__(self, redis: Redis, unit: Unit, sent: asyncio.Future[list[Any]] | StoreUnavailable) -> None:
        self._redis = redis
        self._unit = unit
        self._sent = sent

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._redis.finish(self._unit, self._sent).__await__()

    def abandon(self) -> None:
        """Nobody will wait for it."""
        if isinstance(self._sent, asyncio.Future):
            self._sent.add_done_callback(_forget)


class Redis:
    """The state Redis of this deployment; `users`: a tenant's units go under its own Redis user."""

    def __init__(self, options: RedisOptions, users: TenantUsers | None = None) -> None:
        self.options = options
        self.scripts = load_all()
        self.stats = Stats()
        self._nodes = open_nodes(options, self._loads(), self.stats, self._reconnected)
        self.on_reconnect: Callable[[], None] = lambda: None
        """Called when a server was connected to anew: it may be another one than before."""
        self._tenants: TenantNodes | None = None
        if users is not None and users.template:
            self._tenants = TenantNodes(self._opening(users), users.connections_max, options.connect_timeout_s)

    def _opening(self, users: TenantUsers) -> Callable[[str], Nodes]:
        def opened(tenant: str) -> Nodes:
            own = replace(self.options, credentials=users.credentials(tenant))
            # The scripts are loaded by the runtime; that a tenant has a connection says nothing of the server's.
            return open_nodes(own, (b"", 0), self.stats, lambda: None)

        return opened

    def _nodes_of(self, unit: Unit) -> Nodes:
        if self._tenants is None or not isinstance(unit.slot, Slot):
            return self._nodes
        return self._tenants.of(unit.slot.tenant)

    async def start(self) -> None:
        """Begin to connect and wait a moment; a Redis that is not there yet is no reason not to start."""
        await self._nodes.start(self.options.connect_timeout_s)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._tenants is not None:
            await self._tenants.aclose()
        await self._nodes.aclose()

    @property
    def connected(self) -> bool:
        """Whether the state connection stands; on a Cluster, that to every master."""
        return self._nodes.connected

    @property
    def waiting(self) -> int:
        """Units without a reply so far."""
        return self._nodes.waiting + sum(nodes.waiting for nodes in self._tenants or ())

    @property
    def clustered(self) -> bool:
        """Whether slots are spread over several servers."""
        return self._nodes.clustered

    @property
    def waiting_max(self) -> int:
        """How many may wait on one connection; more are refused."""
        return MultiplexerLimits().waiters_max

    def _reconnected(self) -> None:
        self.on_reconnect()

    def _loads(self) -> tuple[bytes, int]:
        """What loads all scripts, and how many commands it is."""
        return b"".join([script.pack_load() for script in self.scripts.values()]), len(self.scripts)

    async def execute(self, unit: Unit) -> list[Any]:
        """Send a unit and return its replies. Raises `StoreUnavailable`, `OutcomeUnknown` if all tries were lost, and
        `NotAcknowledged` where replicas were to acknowledge it.
        """
        try:
            sent = self._submit(unit)
        except StoreUnavailable as error:
            return await self._again(unit, error)
        return await self.finish(unit, sent)

    def _submit(self, unit: Unit) -> asyncio.Future[list[Any]]:
        return self._nodes_of(unit).line(unit.slot, self._waits(unit)).submit(unit.data, unit.count)

    def _waits(self, unit: Unit) -> bool:
        return unit.acknowledged and self.options.wait_replicas > 0

    async def finish(self, unit: Unit, sent: asyncio.Future[list[Any]] | StoreUnavailable) -> list[Any]:
        """The replies of a unit that was sent; see `execute`."""
        if isinstance(sent, StoreUnavailable):
            return await self._again(unit, sent)
        try:
            replies = await sent
        except StoreUnavailable as error:
            return await self._again(unit, error)
        acknowledged = replies.pop() if self._waits(unit) else 0
        for reply in replies:
            if type(reply) is RedisReplyError:
                return await self._again(unit, reply)
        return self._counted(unit, replies, acknowledged)

    def _counted(self, unit: Unit, replies: list[Any], acknowledged: int) -> list[Any]:
        if self._waits(unit) and acknowledged < self.options.wait_replicas:
            raise NotAcknowledged(replies)
        return replies

    async def each(self, unit: Unit) -> list[list[Any]]:
        """The replies of every server to a unit of reads, sent once; errors among them are values, not raised.

        Raises `StoreUnavailable` where one does not answer.
        """
        return list(await asyncio.gather(*(line.submit(unit.data, unit.count) for line in self._nodes.lines())))

    def send(self, unit: Unit) -> Sent:
        """Send a unit now and wait for it later, with `await`: what is sent in one tick leaves in one write."""
        try:
            return Sent(self, unit, self._submit(unit))
        except StoreUnavailable as error:
            return Sent(self, unit, error)

    def post(self, unit: Unit) -> None:
        """Send a unit that nobody waits for and that may get lost: its effect is only to be earlier than a timer."""
        try:
            future = self._submit(unit)
        except StoreUnavailable:
            return
        future.add_done_callback(_forget)

    async def _again(self, unit: Unit, problem: StoreUnavailable | RedisReplyError) -> list[Any]:
        """Send the whole unit again until it is answered or the budget is used up."""
        unknown = isinstance(problem, OutcomeUnknown)
        if unit.behind is not None:
            try:
                await unit.behind
            except StoreUnavailable as error:
                raise self._gave_up(error, unknown) from error
        deadline = time.monotonic() + self.options.resend_budget_s
        delay_s, detours = 0.005, 0
        while True:
            code = problem.code if isinstance(problem, RedisReplyError) else ""
            way, asked = self._way_on(unit, problem)
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._gave_up(problem, unknown)
            detours += code in REDIRECTS
            if code not in _AT_ONCE or detours > _DETOURS_MAX:
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, 0.25)
            try:
                nodes = self._nodes_of(unit)
                node = asked or nodes.line(unit.slot, self._waits(unit))
                await node.wait_connected(max(min(left, nodes.patience_s), 0.001))
                replies = await node.submit(way.data, way.count)
            except StoreUnavailable as error:
                problem = error
                unknown = unknown or isinstance(error, OutcomeUnknown)
                continue
            acknowledged = replies.pop() if self._waits(unit) else 0
            own = way.replies(replies)
            if isinstance(own, list):
                return self._counted(unit, own, acknowledged)
            problem = own

    def _way_on(self, unit: Unit, problem: StoreUnavailable | RedisReplyError) -> tuple[_Sending, Line | None]:
        """How to send a unit again, and where if not to its slot's owner. Raises what sending again does not cure."""
        if not isinstance(problem, RedisReplyError):
            if problem.reason == "overloaded":
                raise problem
            self._nodes_of(unit).doubt()
            return _Sending(unit), None
        if problem.code == "NOSCRIPT":
            return _Sending(unit, *self._loads()), None
        if problem.code in REDIRECTS:
            asked = self._nodes_of(unit).redirect(unit.slot, problem, self._waits(unit))
            return _Sending(unit, asking=asked is not None), asked
        if problem.code not in _PASSING:
            raise _classified(problem)
        if problem.code == "CLUSTERDOWN":
            self._nodes_of(unit).doubt()
        return _Sending(unit), None

    @staticmethod
    def _gave_up(problem: StoreUnavailable | RedisReplyError, unknown: bool) -> StoreUnavailable:
        if isinstance(problem, RedisReplyError):
            error = StoreUnavailable(f"Redis does not serve: {problem}", problem.code.lower())
        else:
            error = problem
        if unknown and not isinstance(error, OutcomeUnknown):
            return OutcomeUnknown(str(error), error.reason)
        return error


def _classified(problem: RedisReplyError) -> Exception:
    if problem.code in DOWN:
        return StoreUnavailable(f"Redis does not serve: {problem}", problem.code.lower())
    return ScriptError(f"Redis refused a command: {problem}")


def _forget(future: asyncio.Future[list[Any]]) -> None:
    if not future.cancelled():
        future.exception()
