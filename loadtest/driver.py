"""The load: a closed loop of keep-alive HTTP/1.1 connections, in a process of its own, over epoll.

All requests are built before the clock starts; while it runs a turn costs the driver one send, one or two recv and a
search for the end of the headers. Its CPU is nobody's: only the servers' processes are measured.

Parent and child talk in JSON lines: a `Slice`, then `ready`, then `go`, then the result.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Driver", "Outcome", "Slice"]

ROOT = Path(__file__).resolve().parents[1]
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_STALLED_S = 20.0


@dataclass(frozen=True, slots=True)
class Slice:
    """One run of the load: for each connection the conversations that it talks to, `turns` turns with each."""

    ports: Sequence[int]
    """Connection n goes to port n, round and round."""
    conversations: Sequence[Sequence[str]]
    turns: int
    text: str
    agent: str = "echo"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a slice; latencies in microseconds, in no order."""

    seconds: float
    latencies_us: list[float]

    @property
    def turns(self) -> int:
        return len(self.latencies_us)

    def percentile_us(self, part: float) -> float:
        ordered = sorted(self.latencies_us)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Driver:
    """The parent's side: starts the process, hands it slices."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.driver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self, load: Slice) -> None:
        """Build the requests and connect; returns when all is ready to go."""
        self._say(asdict(load))
        self._hear()

    def go(self) -> Outcome:
        """Run the prepared slice to its end. Raises `RuntimeError` when a server did not answer 200."""
        self._say("go")
        return Outcome(**self._hear())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _say(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the driver ended"}
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class _Connection:
    """One connection: what it still has to ask, and since when it waits."""

    __slots__ = ("asked_at", "left", "received", "requests", "socket")

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = deque(requests)
        self.received = b""
        self.left = -1
        """Bytes of the answer still to come; -1 while its headers are not complete."""
        self.asked_at = 0.0

    def ask(self, now: float) -> None:
        self.asked_at = now
        self.socket.sendall(self.requests.popleft())

    def read(self) -> bool:
        """Take in what came; True when an answer is complete."""
        data = self.socket.recv(262_144)
        if not data:
            raise RuntimeError("the server closed a connection")
        if self.left >= 0:
            self.left -= len(data)
        else:
            self.received += data
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            length = _LENGTH.search(self.received, 0, end + 2)
            if not self.received.startswith(b"HTTP/1.1 200") or length is None:
                raise RuntimeError(f"not a 200: {self.received[:600].decode(errors='replace')}")
            self.left = int(length[1]) - (len(self.received) - end - 4)
        if self.left > 0:
            return False
        self.received, self.left = b"", -1
        return True


def _requests(load: dict[str, Any], conversations: Sequence[str]) -> list[bytes]:
    requests = []
    for conversation in conversations:
        body = json.dumps({"model": load["agent"], "conversation": conversation, "input": load["text"]}).encode()
        for _ in range(load["turns"]):
            head = (
                "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer bench\r\n"
                f"Content-Type: application/json\r\nIdempotency-Key: {os.urandom(12).hex()}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            requests.append(head.encode() + body)
    return requests


def _run(connections: Sequence[_Connection]) -> dict[str, Any]:
    by_number = {connection.socket.fileno(): connection for connection in connections}
    clock, latencies = time.perf_counter, []
    open_ones = len(connections)
    with select.epoll() as poll:
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        started = clock()
        for connection in connections:
            connection.ask(clock())
        while open_ones:
            ready = poll.poll(_STALLED_S)
            if not ready:
                raise RuntimeError(f"no answer within {_STALLED_S} s")
            for number, _ in ready:
                connection = by_number[number]
                if not connection.read():
                    continue
                now = clock()
                latencies.append((now - connection.asked_at) * 1e6)
                if not connection.requests:
                    open_ones -= 1
                    continue
                connection.ask(now)
        return {"seconds": clock() - started, "latencies_us": latencies}


def _serve() -> None:
    """The child: one slice after the other, until the parent closes the pipe."""
    while line := sys.stdin.readline():
        connections: list[_Connection] = []
        answer: object
        try:
            load = json.loads(line)
            parts = zip(itertools.cycle(load["ports"]), load["conversations"], strict=False)
            connections = [_Connection(port, _requests(load, part)) for port, part in parts]
            print(json.dumps("ready"), flush=True)
            sys.stdin.readline()
            answer = _run(connections)
        except (OSError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            for connection in connections:
                connection.socket.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
