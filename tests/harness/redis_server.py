"""Redis servers as processes: one alone, or a Cluster of masters."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
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


@functools.cache
def debugging() -> tuple[str, ...]:
    """What allows DEBUG, which servers from 7.0 on refuse and those before always allow."""
    told = subprocess.run([str(find_redis_server()), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)", told)
    return ("--enable-debug-command", "yes") if version and int(version[1]) >= 7 else ()


class RedisServer:
    """One redis-server on loopback, with its data in a folder of its own."""

    def __init__(self, *args: str, port: int | None = None) -> None:
        self.port = port or free_port()
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
                str(find_redis_server()),
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

    def client(self, **kwargs: object) -> redis.Redis:
        """A plain redis-py client, for looking from outside."""
        return redis.Redis(port=self.port, socket_timeout=5, **kwargs)  # type: ignore[arg-type]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

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
    """A Cluster of `masters` masters on loopback, no replicas."""

    def __init__(self, masters: int = 3) -> None:
        args = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.nodes = [RedisServer(*args) for _ in range(masters)]

    def __enter__(self) -> RedisCluster:
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        share = 16384 // len(self.nodes)
        for number, node in enumerate(self.nodes):
            end = 16384 if number == len(self.nodes) - 1 else (number + 1) * share
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(number * share, end))
                for other in self.nodes:
                    if other is not node:
                        client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if all(self._settled(node) for node in self.nodes):
                return self
            time.sleep(0.05)
        raise RuntimeError("the cluster did not form")

    def _settled(self, node: RedisServer) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(self.nodes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.stop()
