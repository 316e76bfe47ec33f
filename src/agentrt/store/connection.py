"""The way to Redis: units of commands in, replies out; connecting, resending and the classes of errors are here.

A `Unit` is a script with the reads pipelined behind it, all of one slot. Units hold scripts that are idempotent by
their op tokens, and reads; nothing else. That is why a unit whose reply was lost may be sent again, whole, and why this
is the only place that does it. Standalone today; Sentinel and Cluster change `_node`, nothing above it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from agentrt.errors import OutcomeUnknown, ScriptError, SettingsError, StoreUnavailable
from agentrt.store.handover import TakenOver, take_over
from agentrt.store.multiplexer import Multiplexer, MultiplexerLimits, RedisReplyError
from agentrt.store.scripts import Operand, Script, load_all, pack

__all__ = ["DOWN", "Redis", "RedisOptions", "Sent", "Unit", "check_url", "new_connection", "new_pool"]

DOWN = frozenset(
    {"READONLY", "LOADING", "MISCONF", "OOM", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "BUSY"}
    | {"NOAUTH", "NOPERM", "WRONGPASS", "UNKILLABLE"}
)
"""Error codes that say: this Redis does not serve. The request is answered 503, readiness fails."""

_PASSING = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"})
"""Of these, the ones that a moment may cure: sent again within the budget."""


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is and how long anything may take."""

    url: str
    client_name: str = "agentrt"
    connect_timeout_s: float = 1.0
    reply_timeout_s: float = 1.0
    resend_budget_s: float = 2.0
    """How long a unit is sent again before its caller is told."""


class Unit:
    """Commands that leave together, for one slot, and are answered together."""

    __slots__ = ("_parts", "count", "slot")

    def __init__(self, slot: bytes) -> None:
        self.slot = slot
        self.count = 0
        self._parts: list[bytes] = []

    def call(self, script: Script, keys: Sequence[bytes], tail: Sequence[Operand] = (), **argv: Operand) -> Unit:
        """Add a script."""
        self._parts.append(script.pack(keys, tail, **argv))
        self.count += 1
        return self

    def packed(self, command: bytes) -> Unit:
        """Add a script that is packed already, see `Script.prepare`."""
        self._parts.append(command)
        self.count += 1
        return self

    def command(self, *command: Operand) -> Unit:
        """Add a command that may be repeated without harm: a read, an UNLINK."""
        self._parts.append(pack(*command))
        self.count += 1
        return self

    @property
    def data(self) -> bytes:
        """The packed commands."""
        return self._parts[0] if self.count == 1 else b"".join(self._parts)


def check_url(url: str, setting: str) -> None:
    """Raises `SettingsError` that names `setting` when redis-py could not even try to connect to `url`."""
    try:
        parse_url(url)
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}") from error


def new_pool(options: RedisOptions) -> ConnectionPool:
    """A redis-py pool with nothing left to its defaults: no retries, no push notifications, RESP2."""
    try:
        kwargs: dict[str, Any] = dict(parse_url(options.url))
    except ValueError as error:
        raise SettingsError(f"AGENTRT_REDIS_URL: {error}") from error
    kwargs.update(
        client_name=options.client_name,
        socket_timeout=options.reply_timeout_s,
        socket_connect_timeout=options.connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return ConnectionPool(**kwargs)


def new_connection(options: RedisOptions) -> AbstractConnection:
    """One such connection, not yet connected, outside of any pool."""
    connection: AbstractConnection = new_pool(options).make_connection()  # type: ignore[no-untyped-call]
    return connection


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
    """The state Redis of this deployment."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self.scripts = load_all()
        self._multiplexer = Multiplexer(self._dial, MultiplexerLimits(reply_timeout_s=options.reply_timeout_s))
        self.stats = self._multiplexer.stats

    async def start(self) -> None:
        """Begin to connect and wait a moment; a Redis that is not there yet is no reason not to start."""
        self._multiplexer.start()
        try:
            await self._multiplexer.wait_connected(self._options.connect_timeout_s)
        except StoreUnavailable:
            return

    async def aclose(self) -> None:
        """Close the connection."""
        await self._multiplexer.aclose()

    @property
    def connected(self) -> bool:
        """Whether the state connection stands."""
        return self._multiplexer.connected

    @property
    def waiting(self) -> int:
        """Units without a reply so far."""
        return self._multiplexer.waiting

    @property
    def waiting_max(self) -> int:
        """How many may wait; more are refused."""
        return self._multiplexer.waiting_max

    def _node(self, slot: bytes) -> Multiplexer:  # noqa: ARG002 - one node today
        return self._multiplexer

    async def _dial(self, protocol: asyncio.Protocol) -> TakenOver:
        return await take_over(new_connection(self._options), protocol)

    async def execute(self, unit: Unit) -> list[Any]:
        """Send a unit and return its replies. Raises `StoreUnavailable`, `OutcomeUnknown` if all tries were lost."""
        try:
            sent = self._node(unit.slot).submit(unit.data, unit.count)
        except StoreUnavailable as error:
            return await self._again(unit, error)
        return await self.finish(unit, sent)

    async def finish(self, unit: Unit, sent: asyncio.Future[list[Any]] | StoreUnavailable) -> list[Any]:
        """The replies of a unit that was sent; see `execute`."""
        if isinstance(sent, StoreUnavailable):
            return await self._again(unit, sent)
        try:
            replies = await sent
        except StoreUnavailable as error:
            return await self._again(unit, error)
        for reply in replies:
            if type(reply) is RedisReplyError:
                return await self._again(unit, reply)
        return replies

    def send(self, unit: Unit) -> Sent:
        """Send a unit now and wait for it later, with `await`: what is sent in one tick leaves in one write."""
        try:
            return Sent(self, unit, self._node(unit.slot).submit(unit.data, unit.count))
        except StoreUnavailable as error:
            return Sent(self, unit, error)

    def post(self, unit: Unit) -> None:
        """Send a unit that nobody waits for and that may get lost: its effect is only to be earlier than a timer."""
        try:
            future = self._node(unit.slot).submit(unit.data, unit.count)
        except StoreUnavailable:
            return
        future.add_done_callback(_forget)

    async def _again(self, unit: Unit, problem: StoreUnavailable | RedisReplyError) -> list[Any]:
        """Send the whole unit again until it is answered or the budget is used up."""
        deadline = time.monotonic() + self._options.resend_budget_s
        delay_s = 0.005
        unknown = isinstance(problem, OutcomeUnknown)
        while True:
            data = unit.data
            count = unit.count
            if isinstance(problem, RedisReplyError):
                if problem.code == "NOSCRIPT":
                    loads = [script.pack_load() for script in self.scripts.values()]
                    data, count = b"".join([*loads, data]), count + len(loads)
                elif problem.code not in _PASSING:
                    raise _classified(problem)
            elif problem.reason == "overloaded":
                raise problem
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._gave_up(problem, unknown)
            if not (isinstance(problem, RedisReplyError) and problem.code == "NOSCRIPT"):
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(delay_s * 2, 0.25)
            node = self._node(unit.slot)
            try:
                await node.wait_connected(max(left, 0.001))
                replies = (await node.submit(data, count))[count - unit.count :]
            except StoreUnavailable as error:
                problem = error
                unknown = unknown or isinstance(error, OutcomeUnknown)
                continue
            failed = next((reply for reply in replies if type(reply) is RedisReplyError), None)
            if failed is None:
                return replies
            problem = failed

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
