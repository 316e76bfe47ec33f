"""What a reply of a provider costs this process: goal 6. `python -m loadtest.providers`.

The bare SDK reads a stream of 50 events; next to it our adapter reads the same, and a whole turn does, from `begin` to
`commit` on a real Redis, with and without a client that listens. The contenders take turns, slice by slice; a ratio is
the median of the ratios of neighbouring slices. Provider and Redis have a core, this process has the other one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from statistics import median
from typing import Any

import anthropic
import openai
import uvloop
from tests.harness.redis_server import RedisServer, free_port
from tests.runtime.conftest import Runtime, running

from agentrt.agent import Agent
from agentrt.models.anthropic import AnthropicModel
from agentrt.models.base import Finished, Model, ModelRequest
from agentrt.models.openai import OpenAIModel
from agentrt.records import Item
from loadtest.driver import ROOT
from loadtest.figures import Goal, Plot, Section, Table, command_line
from loadtest.provider import PIECES
from loadtest.servers import LOAD_CORE, SERVER_CORE, on_core

CONCURRENCY = 16
TEXT = "word " * 3_000
"""15 KB, as the prompt of a conversation has them."""

Call = Callable[[], Awaitable[None]]


def _openai_sdk(url: str, **options: Any) -> tuple[Call, Callable[[], Awaitable[None]]]:
    client = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, **options)

    async def call() -> None:
        said = 0
        async for event in await client.responses.create(model="m", input=TEXT, stream=True):
            said += event.type == "response.output_text.delta"
        assert said == PIECES

    return call, client.close


def _anthropic_sdk(url: str, **options: Any) -> tuple[Call, Callable[[], Awaitable[None]]]:
    client = anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0, **options)

    async def call() -> None:
        said = 0
        prompt: Any = [{"role": "user", "content": TEXT}]
        async for event in await client.messages.create(model="m", messages=prompt, max_tokens=99, stream=True):
            said += event.type == "content_block_delta"
        assert said == PIECES

    return call, client.close


def _adapter(model: Model) -> tuple[Call, Callable[[], Awaitable[None]]]:
    request = ModelRequest([Item.of({"type": "message", "role": "user", "content": TEXT})])

    async def call() -> None:
        events = [event async for event in model.stream(request)]
        assert len(events) == PIECES + 1 and isinstance(events[-1], Finished)

    return call, model.aclose


def _turn(runtime: Runtime, agent: str, *, listen: bool) -> Call:
    async def call() -> None:
        frames: list[bytes] = []
        place = await runtime.enter(runtime.begin(agent, TEXT))
        end = await runtime.admission.run(place, (lambda frame: frames.append(frame[2])) if listen else None)
        assert end is not None and end.status == "completed"
        assert not listen or len(frames) > PIECES

    return call


async def _contenders(stack: AsyncExitStack, url: str, redis_url: str) -> dict[str, Call]:
    settings = {
        "openai_api_key": "k",
        "openai_base_url": f"{url}/v1",
        "anthropic_api_key": "k",
        "anthropic_base_url": url,
    }
    agents = [Agent("openai", model="openai:m"), Agent("anthropic", model="anthropic:m")]
    runtime = await stack.enter_async_context(running(redis_url, agents, **settings))
    made = {
        "openai SDK": _openai_sdk(url),
        "anthropic SDK": _anthropic_sdk(url),
        "openai adapter": _adapter(OpenAIModel("m", api_key="k", base_url=f"{url}/v1")),
        "anthropic adapter": _adapter(AnthropicModel("m", api_key="k", base_url=url)),
    }
    if importlib.util.find_spec("aiohttp"):
        made["openai SDK, aiohttp"] = _openai_sdk(url, http_client=openai.DefaultAioHttpClient())
    for _, close in made.values():
        stack.push_async_callback(close)
    calls = {name: call for name, (call, _) in made.items()}
    for name in ("openai", "anthropic"):
        calls[f"{name} turn"] = _turn(runtime, name, listen=False)
        calls[f"{name} turn, streamed"] = _turn(runtime, name, listen=True)
    return calls


async def _slice(call: Call, count: int) -> float:
    """CPU of one call in µs, 16 at once."""

    async def work() -> None:
        for _ in range(count // CONCURRENCY):
            await call()

    cpu = time.process_time()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return (time.process_time() - cpu) * 1e6 / (count // CONCURRENCY * CONCURRENCY)


async def measure(url: str, redis_url: str, rounds: int, count: int) -> dict[str, list[float]]:
    """CPU of a call in µs, by contender and round; a first round is not counted."""
    async with AsyncExitStack() as stack:
        calls = await _contenders(stack, url, redis_url)
        figures: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 1):
            for name, call in calls.items():
                cpu_us = await _slice(call, count)
                if number:
                    figures[name].append(cpu_us)
        return figures


_TEXT = """A reply is a prompt of 15 KB and a stream of 50 pieces of text, each written by itself, 16 at once;
the CPU is the client's. The bare SDK reads the stream and counts the pieces. A turn begins a session, asks the
model, logs and commits; the HTTP surface is not in it. A streamed one has a client that listens, and so an
event log."""


_WHY = (
    "the adapter by itself needs less than the SDK (see the table); the session, the log and the commit around it, "
    "which the bare SDK has not, need what is saved, and a little more"
)


def section(figures: Mapping[str, list[float]], redis_version: str) -> Section:
    """Goal 6."""
    goals = []
    for name in ("openai", "anthropic"):
        pairs = zip(figures[f"{name} turn, streamed"], figures[f"{name} SDK"], strict=True)
        ratios = [ours / bare for ours, bare in pairs]
        goals.append(Goal(6, f"CPU of a streamed turn / bare {name} SDK", "most", 1, ratios, _WHY))
    rows = [[name, *(f"{of(each):,.0f}" for of in (median, min, max))] for name, each in figures.items()]
    series = {
        name: [(float(n), median(figures[f"{who} {what}"])) for n, who in enumerate(("openai", "anthropic"))]
        for name, what in (("bare SDK", "SDK"), ("adapter", "adapter"), ("streamed turn", "turn, streamed"))
    }
    plot = Plot("providers-cpu", "CPU of a reply of 50 pieces", "", "µs", series, "bars", ("openai", "anthropic"))
    tables = [Table(("", "CPU of a reply, µs", "least", "most"), rows)]
    kept = {name.replace(", ", " ").replace(" ", "_") + "_cpu_us": median(each) for name, each in figures.items()}
    title = "A model provider's reply (goal 6)"
    return Section("providers", title, _TEXT, goals, tables, [plot], kept, ("openai", "anthropic"), redis_version)


@contextmanager
def _provider() -> Iterator[str]:
    """The fake provider's URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "loadtest.provider", str(port)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def measured(quick: bool) -> Section:
    """Goal 6, measured."""
    rounds, count = (3, 64) if quick else (7, 96)
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            redis = stack.enter_context(RedisServer())
            url = stack.enter_context(_provider())
        stack.enter_context(on_core(SERVER_CORE))
        return section(uvloop.run(measure(url, redis.url, rounds, count)), redis.version)


if __name__ == "__main__":
    command_line("providers", "What a provider's reply costs.", measured)
