"""The Redis of a run: one server, a master that Sentinels watch, or a Cluster; and what is done to it.

What happens to masters happens one after the other: each fault ends when the topology is whole again. More at once is
more than replication is made for, and nobody promises anything then.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import redis
from redis.crc import key_slot
from tests.harness.redis_server import RedisCluster, RedisServer
from tests.harness.sentinels import Watched

from agentrt.store.keys import QueueKeys
from loadtest.chaos.schedule import FAILOVERS, Fault

__all__ = ["TOPOLOGIES", "Topology"]

_WHOLE_S = 90.0
"""Within this time after a fault every server has to be in its place again. Sentinels tell an old master so only some
ten seconds after it is back."""
_LAG_S = 1.0
"""So much older may be what replicas do not have, on a machine with other work; the reply takes its time as well."""


class Topology(Protocol):
    """What the world has in common of them."""

    url: str
    """For pods."""
    counts: Counter[str]
    replicas: int
    """How many to wait for, so that nothing is lost whatever becomes of a master: all of its own. Who has not
    heard of the fail-over acknowledges what an old master says that was frozen and goes on."""
    losing: bool
    """Whether a fail-over may forget what no replica was waited for."""
    spans: list[tuple[float, float]]
    """When what a master alone acknowledged was lost with it, by `time.monotonic`: (first, last)."""
    unsettled: list[tuple[float, float]]
    """When fail-overs were under way, until all was whole again, in s since the epoch: (first, last)."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def client(self) -> redis.Redis:
        """For looking from outside, at all data."""

    async def inject(self, fault: Fault) -> None:
        """Do it, and make it good again. Raises ValueError for a kind that there is not."""


def _until(condition: Callable[[], bool], what: str, bound_s: float = _WHOLE_S) -> None:
    deadline = time.monotonic() + bound_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {bound_s} s")
        time.sleep(0.1)


class Single:
    """One server. It is stopped now and then, and keeps what it has."""

    losing = False
    replicas = 0

    def __init__(self) -> None:
        self.server = RedisServer()
        self.url = self.server.url
        self.counts: Counter[str] = Counter()
        self.spans: list[tuple[float, float]] = []
        self.unsettled: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()

    def client(self) -> redis.Redis:
        return self.server.client()

    async def inject(self, fault: Fault) -> None:
        if fault.kind != "freeze":
            raise ValueError(fault.kind)
        await _stopped(self.server, fault.for_s)


async def _stopped(server: RedisServer, for_s: float) -> None:
    server.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        server.signal(signal.SIGCONT)


class _Replicated:
    """What Sentinels and a Cluster have in common."""

    losing = True
    replicas = 1

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.spans: list[tuple[float, float]] = []
        self.unsettled: list[tuple[float, float]] = []
        self._one_at_a_time = ThreadPoolExecutor(1)
        """A thread of their own, or faults that wait for their turn would keep the pods' from theirs."""

    def master(self, target: int) -> RedisServer:
        """The one that a fault is for."""
        raise NotImplementedError

    def successor(self, lost: RedisServer) -> Callable[[], bool]:
        """A condition: another server has taken over what this one had."""
        raise NotImplementedError

    def whole(self) -> bool:
        """Whether every server is in its place, and every replica in step."""
        raise NotImplementedError

    async def inject(self, fault: Fault) -> None:
        await asyncio.get_running_loop().run_in_executor(self._one_at_a_time, self._inject, fault)

    def _inject(self, fault: Fault) -> None:
        begun = time.time()
        match fault.kind:
            case "kill_master" | "freeze_master":
                self._lose(self.master(fault.target), fault)
            case "blink":
                master = self.master(fault.target)
                master.signal(signal.SIGSTOP)
                time.sleep(fault.for_s)
                master.signal(signal.SIGCONT)
            case "cut":
                with self.master(fault.target).client() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal")
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            case _:
                self.special(fault)
        _until(self.whole, f"after {fault.kind}, being whole again")
        if fault.kind in FAILOVERS:
            self.unsettled.append((begun - _LAG_S, time.time() + _LAG_S))

    def special(self, fault: Fault) -> None:
        """A kind that only one of them has."""
        raise ValueError(fault.kind)

    def _lose(self, lost: RedisServer, fault: Fault) -> None:
        taken_over = self.successor(lost)
        begun = time.monotonic()
        if fault.kind == "kill_master":
            lost.kill()
        else:
            lost.signal(signal.SIGSTOP)
        try:
            _until(taken_over, "a fail-over")
            self.spans.append((begun - _LAG_S, time.monotonic() + _LAG_S))
            self.counts["fail-overs"] += 1
            self.counts["fail-overs, seconds in all"] += round(time.monotonic() - begun)
            time.sleep(fault.for_s)
        finally:
            if fault.kind == "kill_master":
                lost.start()
            else:
                lost.signal(signal.SIGCONT)


class Sentinels(_Replicated):
    """A master with two replicas, and three Sentinels."""

    replicas = 2

    def __init__(self) -> None:
        super().__init__()
        # Long enough that a master is not taken for dead because this machine has something else to do.
        self._watched = Watched(2, down_after_ms=2000)
        self.url = self._watched.url

    def __enter__(self) -> Self:
        self._watched.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watched.__exit__(kind, error, trace)

    def client(self) -> redis.Redis:
        return self._watched.now.client()

    def master(self, target: int) -> RedisServer:  # noqa: ARG002 - there is one
        return self._watched.now

    def successor(self, lost: RedisServer) -> Callable[[], bool]:
        return lambda: self._watched.named() not in {None, lost.port}

    def whole(self) -> bool:
        return self._watched.settled()


class Cluster(_Replicated):
    """Three masters with a replica each."""

    def __init__(self) -> None:
        super().__init__()
        self._cluster = RedisCluster(3, 1, node_timeout_ms=3000)
        self.url = self._cluster.url

    def __enter__(self) -> Self:
        self._cluster.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.__exit__(kind, error, trace)

    def client(self) -> redis.Redis:
        port = self._cluster.masters()[0].port
        # redis-py's own two classes have no common ancestor, and the same methods
        client: Any = redis.RedisCluster(host="127.0.0.1", port=port, socket_timeout=5)
        return client  # type: ignore[no-any-return]

    def master(self, target: int) -> RedisServer:
        masters = self._cluster.masters()
        return masters[target % len(masters)]

    def successor(self, lost: RedisServer) -> Callable[[], bool]:
        slot = self._slots(lost)[0]
        others = [node for node in (*self._cluster.nodes, *self._cluster.replicas) if node is not lost]
        return lambda: self._cluster.owner_among(slot, others) is not None

    def whole(self) -> bool:
        try:
            everybody = [*self._cluster.nodes, *self._cluster.replicas]
            masters = self._cluster.masters()
            return (
                len(masters) == 3
                and all(node in masters or self._cluster.in_step(node) for node in everybody)
                and all(self._cluster.settled(node) for node in everybody)
                and all(self._has_replica(master) for master in masters)
            )
        except redis.RedisError:
            return False

    @staticmethod
    def _has_replica(master: RedisServer) -> bool:
        """One that has acknowledged all that was written until now."""
        with master.client() as client:
            info = client.info("replication")
            return any(
                replica["state"] == "online" and replica["offset"] >= info["master_repl_offset"] - 10_000
                for name, replica in info.items()
                if name.startswith("slave") and isinstance(replica, dict)
            )

    def special(self, fault: Fault) -> None:
        """Half the time the slot of the queue moves, else that of some conversation or user."""
        if fault.kind != "move_slot":
            raise ValueError(fault.kind)
        masters = self._cluster.masters()
        slot = key_slot(QueueKeys().slot)
        if fault.for_s > 0.25:
            with masters[fault.target % len(masters)].client() as client:
                key = client.randomkey()
            slot = key_slot(key[key.index(b"{") + 1 : key.index(b"}")]) if key else slot
        here = self._cluster.owner_of(slot)
        to = [node for node in masters if node.port != here.port][fault.target % (len(masters) - 1)]
        with self._cluster.moving(slot, to):
            time.sleep(fault.for_s)
        self.counts["slots moved"] += 1
        _until(partial(self._in_step, to), "replicating what moved")

    @staticmethod
    def _in_step(master: RedisServer) -> bool:
        """Whether a replica has what came with the slot: it is no client's write, so nobody waited for it."""
        with master.client() as client:
            return bool(client.execute_command("WAIT", 1, 1000))

    @staticmethod
    def _slots(master: RedisServer) -> list[int]:
        with master.client() as client:
            entries = client.execute_command("CLUSTER SLOTS")
        return [entry[0] for entry in entries if entry[2][1] == master.port]


TOPOLOGIES: dict[str, Callable[[], Topology]] = {"single": Single, "sentinel": Sentinels, "cluster": Cluster}
"""By name, as `make soak TOPOLOGY=` has it."""
