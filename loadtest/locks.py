"""What a named lock costs and how fast it changes hands: goal 3. `python -m loadtest.locks`.

Next to it, in the same run and on the same Redis, redis-py's `Lock` and pottery's `AIORedlock`; and both quorums on
five masters. The contenders take turns, slice by slice; a ratio is the median of the ratios of neighbouring slices.
This process has one core, all Redis have the other one; the CPU is this process' alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import uvloop
from pottery import AIORedlock
from redis.asyncio import Redis as Plain
from tests.harness.redis_server import RedisServer

from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.keys import new_id
from agentrt.store.locks import LockConfig, Locks, open_locks
from agentrt.store.notices import Notices
from agentrt.telemetry import Telemetry
from loadtest.figures import Goal, Plot, Section, Table, command_line
from loadtest.servers import LOAD_CORE, SERVER_CORE, on_core

MASTERS = 5
CONCURRENCY = 16
WAITERS = 10
WORK_S = 0.002
_WAIT_S = 60.0

Hold = Callable[[str], AbstractAsyncContextManager[object]]
"""Holds the lock of that name around a block, and waits for it as long as it takes."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to lock. `holds`: one for each pod that it is tried from. `contended`: it is tried with waiters too."""

    name: str
    holds: Sequence[Hold]
    pairs: int
    contended: bool = True


@dataclass(slots=True)
class Figures:
    """What was measured of one contender, one entry a round; times in µs, of hand-offs all of them."""

    pair_cpu_us: list[float] = field(default_factory=list)
    pair_us: list[float] = field(default_factory=list)
    hand_off_us: list[float] = field(default_factory=list)
    drained_us: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)


# --- the contenders ---------------------------------------------------------------------------------------------------


async def _pod(stack: AsyncExitStack, url: str, pod: str, urls: Sequence[str] = ()) -> Hold:
    """agentrt's locks as a pod has them: its connection, its subscription."""
    options = RedisOptions(url)
    redis = Redis(options)
    await redis.start()
    stack.push_async_callback(redis.aclose)
    notices = Notices(redis, options, pod)
    notices.start()
    stack.push_async_callback(notices.aclose)
    locks: Locks = await open_locks(urls, redis, notices, LockConfig(pod), Telemetry())
    stack.push_async_callback(locks.aclose)
    async with asyncio.timeout(5):
        while not await notices.listening(pod):  # noqa: ASYNC110 - the subscription says nothing when it stands
            await asyncio.sleep(0.01)
    owner, numbers = new_id(), itertools.count()
    return lambda name: locks.hold("bench", name, f"{owner}.{next(numbers)}", _WAIT_S)


def _redis_py(client: Plain) -> Hold:
    return lambda name: client.lock(name, timeout=30)


def _pottery(masters: Sequence[Plain]) -> Hold:
    @asynccontextmanager
    async def hold(name: str) -> AsyncIterator[None]:
        lock = AIORedlock(key=name, masters=set(masters), auto_release_time=30)
        await lock.acquire(blocking=True, timeout=_WAIT_S)
        try:
            yield
        finally:
            await lock.release()

    return hold


async def _contenders(stack: AsyncExitStack, servers: Sequence[RedisServer], pairs: int) -> list[Contender]:
    """All on the first server; the quorums on all of them."""
    plain = [await stack.enter_async_context(Plain(port=server.port)) for server in servers]
    again = await stack.enter_async_context(Plain(port=servers[0].port))
    url, urls = servers[0].url, [server.url for server in servers]
    return [
        Contender("agentrt", [await _pod(stack, url, f"bench-{n}") for n in range(2)], pairs),
        Contender("redis-py Lock", [_redis_py(plain[0]), _redis_py(again)], pairs),
        Contender("pottery", [_pottery(plain[:1]), _pottery([again])], pairs // 4),
        Contender(f"agentrt, {MASTERS} masters", [await _pod(stack, url, "bench-q", urls)], pairs // 4, False),
        Contender(f"pottery, {MASTERS} masters", [_pottery(plain)], pairs // 8, False),
    ]


# --- what is measured -------------------------------------------------------------------------------------------------


async def pairs(contender: Contender, figures: Figures) -> None:
    """Take and give back locks that nobody else wants, 16 at once; CPU and time of a pair."""
    hold = contender.holds[0]
    each = max(1, contender.pairs // CONCURRENCY)

    async def work(number: int) -> None:
        for _ in range(each):
            async with hold(f"pair:{number}"):
                pass

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(number) for number in range(CONCURRENCY)))
    done = each * CONCURRENCY
    figures.pair_cpu_us.append((time.process_time() - cpu) * 1e6 / done)
    figures.pair_us.append((time.perf_counter() - began) * 1e6 / done * CONCURRENCY)


async def drain(contender: Contender, figures: Figures) -> None:
    """Ten waiters of 2 ms each behind one holder; from its release until all are through. Each hand-off is timed."""
    ready = asyncio.Semaphore(0)
    given_back = 0.0

    async def work(number: int) -> None:
        nonlocal given_back
        ready.release()
        async with contender.holds[number % len(contender.holds)]("drain"):
            figures.hand_off_us.append((time.perf_counter() - given_back) * 1e6)
            await _busy()
            given_back = time.perf_counter()

    async with contender.holds[0]("drain"):
        working = [asyncio.create_task(work(number)) for number in range(WAITERS)]
        for _ in range(WAITERS):
            await ready.acquire()
        await asyncio.sleep(0.05)  # all of them have asked once
        began = given_back = time.perf_counter()
    await asyncio.gather(*working)
    figures.drained_us.append((time.perf_counter() - began) * 1e6)


async def _busy() -> None:
    """2 ms by the clock: the loop's own timers are too coarse to be the yardstick."""
    until = time.perf_counter() + WORK_S
    await asyncio.sleep(WORK_S * 0.4)
    while time.perf_counter() < until:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def turns(contender: Contender, figures: Figures, seconds: float) -> None:
    """Ten who want the same lock again and again; most turns of one less the fewest of another."""
    counts = [0] * WAITERS
    until = time.perf_counter() + seconds

    async def work(number: int) -> None:
        while time.perf_counter() < until:
            async with contender.holds[number % len(contender.holds)]("turns"):
                if time.perf_counter() < until:
                    counts[number] += 1

    await asyncio.gather(*(work(number) for number in range(WAITERS)))
    figures.spread.append(max(counts) - min(counts))


async def measure(servers: Sequence[RedisServer], rounds: int, n_pairs: int) -> dict[str, Figures]:
    """Everything, by contender; a first round of pairs is not counted."""
    async with AsyncExitStack() as stack:
        contenders = await _contenders(stack, servers, n_pairs)
        figures = {contender.name: Figures() for contender in contenders}
        for contender in contenders:
            await pairs(contender, Figures())
        kinds: list[Callable[[Contender, Figures], Awaitable[None]]] = [drain, lambda c, f: turns(c, f, 0.5)]
        for _ in range(rounds):
            for contender in contenders:
                await pairs(contender, figures[contender.name])
            for kind in kinds:
                for contender in contenders:
                    if contender.contended:
                        await kind(contender, figures[contender.name])
        return figures


# --- the section of the page ------------------------------------------------------------------------------------------

_TEXT = """A pair is one lock taken and given back, with nobody else wanting it; the CPU is the client's. A
hand-off is the time from giving a lock back to the next waiter having it; agentrt's waiters are on two pods.
What locks on more than one master says so."""
_WHY_PAIR = "at the bound: the slices differ by more than what is missing"
_WHY_HAND = (
    "a time, with the wake-ups of three processes in it (who gives back, Redis, who waits) that have two cores between "
    "them, and two scripts"
)
_HEAD = ("", "CPU of a pair, µs", "time of it, µs", "hand-off p50 / p99, ms", "10 waiters drained, ms", "turns, spread")


def section(figures: Mapping[str, Figures], redis_version: str) -> Section:
    """Goal 3."""
    ours = figures["agentrt"]
    ratios = [a / b for a, b in zip(ours.pair_cpu_us, figures["redis-py Lock"].pair_cpu_us, strict=True)]
    per_round = [ours.hand_off_us[n : n + WAITERS] for n in range(0, len(ours.hand_off_us), WAITERS)]
    goals = [
        Goal(3, "CPU of a lock pair, 16 at once, agentrt / redis-py Lock", "most", 0.2, ratios, _WHY_PAIR),
        Goal(3, "hand-off p50, ms", "most", 0.5, [median(each) / 1000 for each in per_round], _WHY_HAND),
        Goal(3, "10 waiters of 2 ms drained, ms", "most", 30, [each / 1000 for each in ours.drained_us]),
        Goal(3, "turns of 10 waiters: most less fewest", "most", 2, [max(ours.spread)]),
    ]
    table = Table(_HEAD, [_row(name, each) for name, each in figures.items()])
    series: dict[str, Sequence[tuple[float, float]]] = {
        name: [(0.0, median(each.hand_off_us) / 1000), (1.0, median(each.drained_us) / 1000)]
        for name, each in figures.items()
        if each.hand_off_us
    }
    groups = ("hand-off p50", "10 waiters of 2 ms drained")
    plot = Plot("locks-hand-off", "A named lock changes hands", "", "ms", series, "bars", groups)
    kept = {"pair_cpu_us": median(ours.pair_cpu_us), "hand_off_p50_us": median(ours.hand_off_us)}
    title = "Named locks (goal 3)"
    return Section("locks", title, _TEXT, goals, [table], [plot], kept, ("pottery",), redis_version)


def _row(name: str, figures: Figures) -> list[str]:
    cells = [name, f"{median(figures.pair_cpu_us):.0f}", f"{median(figures.pair_us):.0f}"]
    if not figures.hand_off_us:
        return [*cells, "", "", ""]
    ordered = sorted(figures.hand_off_us)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    cells.append(f"{median(ordered) / 1000:.2f} / {p99 / 1000:.1f}")
    return [*cells, f"{median(figures.drained_us) / 1000:.1f}", f"{max(figures.spread):.0f}"]


def measured(quick: bool) -> Section:
    """Goal 3, measured."""
    rounds, n_pairs = (3, 800) if quick else (9, 3_200)
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            servers = [stack.enter_context(RedisServer()) for _ in range(MASTERS)]
        stack.enter_context(on_core(SERVER_CORE))
        figures = uvloop.run(measure(servers, rounds, n_pairs))
        return section(figures, servers[0].version)


if __name__ == "__main__":
    command_line("locks", "What a named lock costs.", measured)
