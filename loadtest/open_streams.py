"""`make streams`: a thousand streams open at once on one pod, and what each costs; and what an idle session costs.

Each stream is a turn whose model says a word and is silent until all have been opened and counted, so all of them are
open, and owned, at the same time. Memory of processes is their proportional set size; that of Redis what it says itself
(used_memory).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

_IDLE = 2000
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the pod and of Redis at one moment."""

    pod: int
    redis: int

    def since(self, before: Memory, count: int) -> dict[str, int]:
        """What each of `count` things has cost."""
        return {"pod": (self.pod - before.pod) // count, "redis": (self.redis - before.redis) // count}


class Bench:
    """One pod, its Redis, and the connections to it."""

    def __init__(self, pod: Pod, redis: RedisServer, gate: Path) -> None:
        self._pod, self._redis, self._gate = pod, redis, gate
        self._process = psutil.Process(pod.pid)

    def memory(self) -> Memory:
        """As it is now."""
        with self._redis.client() as client:
            return Memory(self._process.memory_full_info().pss, client.info("memory")["used_memory"])

    async def sessions(self, count: int) -> None:
        """So many conversations of one turn each, ended and idle."""
        width = asyncio.Semaphore(_AT_ONCE)

        async def turn() -> None:
            async with width:
                reader, writer = await self._post({"model": "echo", "input": "hello"})
                await reader.read()
                writer.close()

        await asyncio.gather(*(turn() for _ in range(count)))

    async def streams(self, count: int) -> dict[str, Any]:
        """Open them, count, let them end; what was seen."""
        before, begun = self.memory(), time.monotonic()
        width = asyncio.Semaphore(_AT_ONCE)
        first: list[float] = []
        open_now: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

        async def begin() -> None:
            async with width:
                asked = time.monotonic()
                reader, writer = await self._post({"model": "held", "input": "hello", "stream": True})
                await reader.readuntil(b"response.output_text.delta")
                first.append(time.monotonic() - asked)
                open_now.append((reader, writer))

        await asyncio.gather(*(begin() for _ in range(count)))
        opened_s = time.monotonic() - begun
        held = self.memory()
        sockets = len(self._process.net_connections("tcp"))
        self._gate.touch()
        released = time.monotonic()

        async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            rest = await reader.read()
            writer.close()
            return b"event: response.completed" in rest

        whole = sum(await asyncio.gather(*(end(*one) for one in open_now)))
        return {
            "streams open at once": len(open_now),
            "completed": whole,
            "connections of the pod": sockets,
            "bytes per open stream": held.since(before, count),
            "seconds to open all": round(opened_s, 1),
            "first text, ms, 50 opened at a time": {
                "p50": round(statistics.median(first) * 1000),
                "p99": round(statistics.quantiles(first, n=100)[98] * 1000),
            },
            "seconds to end all": round(time.monotonic() - released, 1),
        }

    async def _post(self, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._pod.port)
        raw = json.dumps(body).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nhost: pod\r\nconnection: close\r\ncontent-length: {len(raw)}\r\n"
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + raw)
        return reader, writer


async def measure(bench: Bench, count: int) -> dict[str, Any]:
    """Idle sessions, once to let the pod grow as it does, and once to count; then open streams."""
    await bench.sessions(_IDLE)
    before = bench.memory()
    await bench.sessions(_IDLE)
    idle = bench.memory().since(before, _IDLE)
    return {"bytes per idle session of one turn": idle, **await bench.streams(count)}


def main() -> int:
    """Start, measure, print; status 1 when a stream was not whole."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.open_streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 3 * args.streams + 1024), most))
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        gate = redis.dir / "gate"
        env = {"LOAD_GATE": str(gate), "AGENTRT_MAX_RUNS": str(args.streams), "AGENTRT_LOG_LEVEL": "warning"}
        pod = Pod(redis.url, target="loadtest.agents:agents", name="streams", env=env)
        stack.callback(pod.stop)
        pod.start(wait=False).wait_ready(120)
        found = asyncio.run(measure(Bench(pod, redis, gate), args.streams))
    print(json.dumps(found, indent=2))
    return 0 if found["completed"] == args.streams else 1


if __name__ == "__main__":
    sys.exit(main())
