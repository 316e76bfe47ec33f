"""What is measured: a floor process and a pod, each on one core, with conversations of a given length made for a slice.

Both keep items of about 300 bytes. The pod gets its conversations through its own API, as a client would make them.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any, Protocol

import orjson
import redis
from tests.harness.pod import Pod
from tests.harness.redis_server import free_port

from loadtest.driver import ROOT
from loadtest.floor import floor_keys, message

__all__ = ["LOAD_CORE", "SERVER_CORE", "TEXT", "AgentrtPod", "Fleet", "FloorProcess", "Served", "Server", "on_core"]

TEXT = "x" * 130
"""What the user says in every turn; with its JSON around it an item of about 300 bytes."""
_READY_S = 120.0
"""A machine that others work on starts a pod slowly."""
_CHUNK = 500
"""Items in one request; a pod takes up to 512."""


def _cores() -> tuple[int | None, int | None]:
    cores = sorted(os.sched_getaffinity(0))
    return (cores[-1], cores[0]) if len(cores) > 1 else (None, None)


SERVER_CORE, LOAD_CORE = _cores()
"""One core for the server that is measured; another one for Redis, the driver and this process. None: there is only
one core, for all."""


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started within runs on that core, with all its threads, for good."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server(Protocol):
    """Something that answers turns."""

    name: str

    @property
    def pids(self) -> Sequence[int]: ...

    @property
    def ports(self) -> Sequence[int]: ...

    def prefill(self, count: int, items: int) -> list[str]:
        """Make `count` conversations of `items` items; returns their names."""
        ...

    def sent(self) -> tuple[float, float] | None:
        """(units, writes) to Redis since the start, as the server counts them; None where it does not."""
        ...

    def close(self) -> None: ...


class Served:
    """`python -m MODULE --port N ...` as a process, from when it accepts connections."""

    def __init__(self, module: str, *args: str, python: str = sys.executable, ready_s: float = _READY_S) -> None:
        self.port = free_port()
        self._process = subprocess.Popen([python, "-m", module, "--port", str(self.port), *args], cwd=ROOT)
        deadline = time.monotonic() + ready_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise RuntimeError(f"{module} did not start") from None
                time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class FloorProcess:
    """The floor in a process of its own."""

    name = "floor"

    def __init__(self, redis_url: str, direct: redis.Redis) -> None:
        self._redis = direct
        self._served = Served("loadtest.floor", "--redis-url", redis_url)

    @property
    def pids(self) -> Sequence[int]:
        return [self._served.pid]

    @property
    def ports(self) -> Sequence[int]:
        return [self._served.port]

    def prefill(self, count: int, items: int) -> list[str]:
        names = [f"conv_{secrets.token_hex(11)}" for _ in range(count)]
        for name in names:
            header, history = floor_keys(name)
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(header, mapping={"id": name, "tenant": "dev", "created": int(time.time()), "rev": 0})
            for start in range(0, items, _CHUNK):
                pipe.rpush(history, *_stored(start, min(items, start + _CHUNK)))
            pipe.execute()
        return names

    def sent(self) -> None:
        return None

    def close(self) -> None:
        self._served.close()


class AgentrtPod:
    """`agentrt serve` with the demo agents, as in production."""

    def __init__(self, redis_url: str, *, name: str = "bench", agents: str = "", **settings: object) -> None:
        """`agents`: another target than the demo's; `settings`: AGENTRT_* in lower case."""
        self.name = "agentrt"
        env = {f"AGENTRT_{name.upper()}": str(value) for name, value in settings.items()}
        self._pod = Pod(redis_url, name=name, env=env, target=agents or "agentrt.demo:agents")
        try:
            self._pod.start(wait=False).wait_ready(_READY_S)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> Sequence[int]:
        return [self._pod.pid]

    @property
    def ports(self) -> Sequence[int]:
        return [self._pod.port]

    @property
    def port(self) -> int:
        return self._pod.port

    def prefill(self, count: int, items: int) -> list[str]:
        chunks = [_asked(start, min(items, start + _CHUNK)) for start in range(0, items, _CHUNK)]
        names = []
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as http:
            for _ in range(count):
                name = orjson.loads(_post(http, "/v1/conversations", chunks[0]))["id"]
                for chunk in chunks[1:]:
                    _post(http, f"/v1/conversations/{name}/items", chunk)
                names.append(name)
        return names

    def sent(self) -> tuple[float, float]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as http:
            http.request("GET", "/metrics")
            rows = [line.split() for line in http.getresponse().read().decode().splitlines() if line[:1] != "#"]
        values = {row[0]: float(row[1]) for row in rows if len(row) == 2}
        return values["agentrt_redis_units_total"], values["agentrt_redis_writes_total"]

    def close(self) -> None:
        self._pod.stop()


class Fleet:
    """Some pods as one server: connections go to them round and round."""

    def __init__(self, pods: Sequence[AgentrtPod]) -> None:
        self.name = f"{len(pods)} pods"
        self._pods = pods

    @property
    def pids(self) -> Sequence[int]:
        return [pid for pod in self._pods for pid in pod.pids]

    @property
    def ports(self) -> Sequence[int]:
        return [pod.port for pod in self._pods]

    def prefill(self, count: int, items: int) -> list[str]:
        return self._pods[0].prefill(count, items)

    def sent(self) -> tuple[float, float]:
        counts = [pod.sent() for pod in self._pods]
        return sum(units for units, _ in counts), sum(writes for _, writes in counts)

    def close(self) -> None:
        for pod in self._pods:
            pod.close()


def _post(http: HTTPConnection, path: str, body: bytes) -> bytes:
    http.request("POST", path, body, {"content-type": "application/json", "authorization": "Bearer bench"})
    response = http.getresponse()
    data = response.read()
    if response.status != 200:
        raise RuntimeError(f"POST {path}: {response.status} {data[:300].decode()}")
    return data


def _role(number: int) -> str:
    return "assistant" if number % 2 else "user"


def _stored(start: int, end: int) -> Sequence[bytes]:
    return [message(_role(number), TEXT) for number in range(start, end)]


def _asked(start: int, end: int) -> bytes:
    items: list[dict[str, Any]] = [{"role": _role(number), "content": TEXT} for number in range(start, end)]
    return orjson.dumps({"items": items})
