"""What streaming costs: goal 5. `python -m loadtest.streams`.

A pod, and next to it the floor, stream what the same paced model says (`pace.pieces`). The model's first piece tells
when the model was asked and when it spoke, so the time that is added before and behind it is known exactly.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median
from typing import cast

import orjson
import uvloop
from tests.harness.redis_server import RedisServer

from agentrt.models.base import ModelRequest
from agentrt.models.scripted import ScriptedModel
from agentrt.records import Item
from loadtest.figures import Goal, Plot, Section, Table, command_line, number, say
from loadtest.measure import tree_cpu_s
from loadtest.paced import paced
from loadtest.servers import LOAD_CORE, SERVER_CORE, AgentrtPod, FloorProcess, Server, on_core

CONCURRENCY = 50
_FEW, _MANY = 40, 440
"""Tokens of a stream; the difference in CPU is that of the tokens between, without the turn around them."""
_GAP_MS = 4
_BURSTS = (1, 10)
_FIRST = re.compile(rb"<([0-9.]+) ([0-9.]+)>")


@dataclass(slots=True)
class Figures:
    """Of one server, in µs: before and behind the model, of every stream; by burst the CPU of a token, one a round."""

    before: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    token_cpu: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in _BURSTS})
    redis_cpu: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in _BURSTS})
    added_rounds: list[float] = field(default_factory=list)

    @property
    def added(self) -> list[float]:
        return sorted(a + b for a, b in zip(self.before, self.behind, strict=True))


# --- the client -------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One stream at a time over one connection: when it was asked for, when the first piece came, when it was over."""

    def __init__(self) -> None:
        self._received = b""
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.first: tuple[float, float, float] | None = None
        """When the first piece came; what it says: when the model was asked, when it spoke."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are none by inheritance

    def data_received(self, data: bytes) -> None:
        if self.first is None:
            self._received += data
            if found := _FIRST.search(self._received):
                self.first = (time.monotonic(), float(found[1]), float(found[2]))
        else:
            self._received = self._received[-16:] + data
        if self._received.endswith(b"0\r\n\r\n") and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a method of an interface
        if self._done is not None and not self._done.done():
            self._done.set_exception(RuntimeError(f"the server closed a stream: {self._received[:300]!r}"))

    async def stream(self, conversation: str, text: str) -> tuple[float, float]:
        """Seconds before and behind the model's first piece."""
        asked = {"model": "paced", "conversation": conversation, "input": text, "stream": True}
        body = orjson.dumps(asked)
        head = (
            "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._received, self.first = b"", None
        self._done = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        began = time.monotonic()
        self._transport.write(head.encode() + body)
        await self._done
        if self.first is None:
            raise RuntimeError(f"a stream without a first piece: {self._received[:300]!r}")
        came, model_asked, spoke = self.first
        return model_asked - began, came - spoke

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _streams(
    server: Server, concurrency: int, each: int, text: str, spread_s: float
) -> list[tuple[float, float]]:
    """`each` streams one after the other on every connection, which begin within `spread_s`."""
    names = await asyncio.to_thread(server.prefill, concurrency, 10)
    loop = asyncio.get_running_loop()

    async def talk(n: int) -> list[tuple[float, float]]:
        _, client = await loop.create_connection(_Client, "127.0.0.1", server.ports[0])
        await asyncio.sleep(spread_s * n / concurrency)
        found = [await client.stream(names[n], text) for _ in range(each)]
        client.close()
        return found

    return [one for found in await asyncio.gather(*(talk(n) for n in range(concurrency))) for one in found]


# --- what is measured -------------------------------------------------------------------------------------------------


async def _first_token(server: Server, figures: Figures, each: int) -> None:
    """50 at once, evenly spread: a second each, 11 tokens."""
    took = await _streams(server, CONCURRENCY, each, "400 11 1 60", 1.0)
    figures.before += [before * 1e6 for before, _ in took]
    figures.behind += [behind * 1e6 for _, behind in took]
    figures.added_rounds.append(median(before + behind for before, behind in took) * 1e6)


async def _token_cpu(server: Server, redis_pid: int, figures: Figures, burst: int) -> None:
    """The slope: CPU of long streams less that of short ones, by the tokens between."""
    spent = []
    for count in (_FEW, _MANY):
        cpu, redis_cpu = sum(tree_cpu_s(pid) for pid in server.pids), tree_cpu_s(redis_pid)
        await _streams(server, 16, 1, f"10 {count} {burst} {_GAP_MS}", 0.05)
        spent.append((sum(tree_cpu_s(pid) for pid in server.pids) - cpu, tree_cpu_s(redis_pid) - redis_cpu))
    tokens = 16 * (_MANY - _FEW)
    figures.token_cpu[burst].append((spent[1][0] - spent[0][0]) * 1e6 / tokens)
    figures.redis_cpu[burst].append((spent[1][1] - spent[0][1]) * 1e6 / tokens)


async def _model_cpu(burst: int) -> float:
    """What the paced model itself costs a token: its pauses, above all. Measured in this process."""
    model = ScriptedModel("paced", paced)

    async def once(count: int) -> None:
        text = f"10 {count} {burst} {_GAP_MS}"
        async for _ in model.stream(ModelRequest([Item.of({"type": "message", "role": "user", "content": text})])):
            pass

    spent = []
    for count in (_FEW, _MANY):
        cpu = time.process_time()
        await asyncio.gather(*(once(count) for _ in range(16)))
        spent.append(time.process_time() - cpu)
    return (spent[1] - spent[0]) * 1e6 / (16 * (_MANY - _FEW))


async def measure(
    servers: Sequence[Server], redis_pid: int, rounds: int, each: int
) -> tuple[dict[str, Figures], dict[int, list[float]]]:
    """By server; and the model's own cost by burst. A first, short round is not counted."""
    figures = {server.name: Figures() for server in servers}
    model: dict[int, list[float]] = {n: [] for n in _BURSTS}
    for server in servers:
        await _first_token(server, Figures(), 2)
    for number_ in range(rounds):
        for server in servers:
            say(f"round {number_}, {server.name}")
            await _first_token(server, figures[server.name], each)
            for burst in _BURSTS:
                await _token_cpu(server, redis_pid, figures[server.name], burst)
        for burst in _BURSTS:
            model[burst].append(await _model_cpu(burst))
    return figures, model


# --- the section of the page ------------------------------------------------------------------------------------------

_TEXT = """The model pauses for 400 ms and then says 11 tokens, 60 ms apart; 50 streams at once, evenly spread.
Its first token tells when the model was asked and when it spoke: what a client waits for beside that is the
time added. CPU of a token is that of streams of 440 tokens less that of streams of 40, 16 at once, so the turn
around them is not in it, but what is sent to the client and what is written to the event log is; the model's
own pauses, measured apart, are taken off. Tokens come one by one, or ten in one piece of time, as a fast
model's do. The floor streams the same from Starlette's `StreamingResponse` and logs nothing. (1,000 open
streams: loadtest/README.md.)"""
_WHY = (
    "every token is an event of its own with a number and six fields, encoded, kept for the log until it is there, and "
    "sent in a chunk that wakes two tasks; what comes together shares all but the encoding"
)

_TIME = (
    "fifty streams share a core, and the floor, which writes nothing anywhere, needs a good part of it too (see the "
    "table): what is ours is the round trip that begins the run, and behind the model an event that is numbered, "
    "encoded and logged"
)


def _without(costs: Sequence[float], model: Sequence[float]) -> list[float]:
    return [cost - own for cost, own in zip(costs, model, strict=True)]


def section(figures: dict[str, Figures], model: dict[int, list[float]], redis_version: str) -> Section:
    """Goal 5, but for the 1,000 streams."""
    ours, floor = figures["agentrt"], figures["floor"]
    added = [each / 1000 for each in ours.added_rounds]
    token = {n: _without(ours.token_cpu[n], model[n]) for n in _BURSTS}
    goals = [
        Goal(5, f"added time to first token, {CONCURRENCY} at once, p50, ms", "most", 2, added, _TIME),
        Goal(5, "CPU of a token through to client and event log, one by one, µs", "most", 6, token[1], _WHY),
        Goal(5, "the same, ten at a time, µs", "most", 6, token[10], _WHY),
    ]
    tables = [
        Table(
            ("added to the first token, µs", "before the model p50 / p95", "behind it p50 / p95", "together p50 / p95"),
            [
                [name, *(_percentiles(each) for each in (of.before, of.behind, of.added))]
                for name, of in figures.items()
            ],
        ),
        Table(
            ("CPU of a token, µs", *(f"{_name(n)}: server" for n in _BURSTS), *(f"{_name(n)}: Redis" for n in _BURSTS)),
            [
                [
                    "agentrt",
                    *(number(median(token[n])) for n in _BURSTS),
                    *(_median(ours.redis_cpu[n]) for n in _BURSTS),
                ],
                ["floor", *(number(median(_without(floor.token_cpu[n], model[n]))) for n in _BURSTS), "0", "0"],
                ["the model itself", *(_median(model[n]) for n in _BURSTS), "", ""],
            ],
        ),
    ]
    parts = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    series = {
        name: [(part * 100, of.added[int((len(of.added) - 1) * part)] / 1000) for part in parts]
        for name, of in figures.items()
    }
    title = "Time added to the first token"
    plot = Plot("streams-first-token", title, "percentile", "ms", series)
    kept = {"token_cpu_us": median(token[1]), "token_redis_cpu_us": median(ours.redis_cpu[1])}
    return Section("streams", "Streaming (goal 5)", _TEXT, goals, tables, [plot], kept, redis_version=redis_version)


def _name(burst: int) -> str:
    return "one by one" if burst == 1 else f"{burst} at a time"


def _median(values: Sequence[float]) -> str:
    return number(median(values))


def _percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    at: Callable[[float], float] = lambda part: ordered[min(len(ordered) - 1, int(len(ordered) * part))]  # noqa: E731
    return f"{number(at(0.5))} / {number(at(0.95))}"


def measured(quick: bool) -> Section:
    """Goal 5, measured."""
    rounds, each = (2, 4) if quick else (5, 10)
    with ExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        redis = stack.enter_context(RedisServer())
        with on_core(SERVER_CORE):
            floor = stack.enter_context(closing(FloorProcess(redis.url, redis.client())))
            pod = stack.enter_context(closing(AgentrtPod(redis.url, agents="loadtest.paced:agents")))
        figures, model = uvloop.run(measure([floor, pod], redis.pid, rounds, each))
        return section(figures, model, redis.version)


if __name__ == "__main__":
    command_line("streams", "What streaming costs.", measured)
