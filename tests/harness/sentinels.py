"""A master with replicas, and Sentinels that watch it: real processes, on loopback."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import redis

from agentrt.embedded import find_redis_server
from tests.harness.redis_server import RedisServer, free_port

MASTER = "state"


class Sentinel:
    """One Sentinel process, with its configuration, which it rewrites, in a folder of its own."""

    def __init__(self, master_port: int, quorum: int, down_after_ms: int, *, epoch: int = 0) -> None:
        self.port = free_port()
        self._dir = Path(tempfile.mkdtemp(prefix="agentrt-sentinel-"))
        self._config = self._dir / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._dir}",
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER} {down_after_ms}",
            f"sentinel failover-timeout {MASTER} 2000",
            f"sentinel config-epoch {MASTER} {epoch}",
        ]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def __enter__(self) -> Sentinel:
        self._process = subprocess.Popen(
            [str(find_redis_server()), str(self._config), "--sentinel"],
            stdout=subprocess.DEVNULL,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)


class Watched:
    """A master, its replicas, and three Sentinels of which two must agree."""

    def __init__(self, replicas: int = 1, down_after_ms: int = 1000) -> None:
        self.master = RedisServer("--repl-diskless-sync-delay", "0")
        """The first one; `now` is whoever it is later."""
        self.replicas = [
            RedisServer("--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0")
            for _ in range(replicas)
        ]
        self.down_after_s = down_after_ms / 1000
        self.sentinels = [Sentinel(self.master.port, 2, down_after_ms) for _ in range(3)]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{MASTER}/0"

    def named(self) -> int | None:
        """The port of the master that a majority of the Sentinels name; None while they don't agree."""
        ports = [self._named_by(sentinel) for sentinel in self.sentinels]
        return next((port for port in ports if port is not None and ports.count(port) >= 2), None)

    @staticmethod
    def _named_by(sentinel: Sentinel) -> int | None:
        with sentinel.client() as client:
            try:
                return int(client.sentinel_get_master_addr_by_name(MASTER)[1])
            except (redis.RedisError, TypeError):
                return None

    @property
    def now(self) -> RedisServer:
        """The master that a majority of the Sentinels name."""
        port = self.named()
        return next(server for server in (self.master, *self.replicas) if server.port == port)

    @staticmethod
    def _linked(replica: RedisServer) -> bool:
        with replica.client() as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def settled(self) -> bool:
        """Whether every Sentinel knows one master that is well, and all its replicas in step."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                try:
                    state = client.sentinel_masters()[MASTER]
                    replicas = client.sentinel_slaves(MASTER)
                except (redis.RedisError, KeyError):
                    return False
            alive = sum(not replica["is_sdown"] and replica["master-link-status"] == "ok" for replica in replicas)
            if alive < len(self.replicas) or state["num-other-sentinels"] < 2 or not state["is_master"]:
                return False
            if state["flags"] != "master":
                return False
        return True

    @staticmethod
    def _until(condition, timeout_s: float) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the replicas or the Sentinels did not settle")
            time.sleep(0.05)

    def __enter__(self) -> Watched:
        with ExitStack() as stack:
            for server in (self.master, *self.replicas):
                stack.enter_context(server)
            with self.master.client() as client:  # before a Sentinel looks: it looks again every 10 s only
                wanted = len(self.replicas)
                self._until(lambda: client.execute_command("WAIT", wanted, 100) == wanted, 30)
            self._until(lambda: all(self._linked(replica) for replica in self.replicas), 30)
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            self._until(lambda: self.named() == self.master.port, 20)
            self._until(self.settled, 30)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
