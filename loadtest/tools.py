"""What a step with tools costs: goal 4. `python -m loadtest.tools`.

Next to it, in the same run and on the same Redis, what people write by hand: for every call redis-py's `Lock`, a GET of
the journal, the call, a SET of it, and the release. The tools do nothing: what is measured is what makes them safe.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import uvloop
from redis.asyncio import Redis as Plain
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

from agentrt.agent import Agent, Effect, Limits
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.admission import Place
from agentrt.runtime.clock import wall_ms
from agentrt.store.journal import Batch, Outcome, Planned, Recorded, effect_key, fingerprint, read_effects
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned, Owner
from agentrt.tools.function import tool
from loadtest.figures import Goal, Plot, Section, Table, command_line, number, say
from loadtest.measure import cpu_s
from loadtest.servers import LOAD_CORE, SERVER_CORE, on_core

CALLS = (1, 4, 16)
CONCURRENCY = 16
_TRIES = 7
_ARGUMENTS = '{"order_id":"A1","cents":500}'
_OUTPUT = '{"refund":4711,"order_id":"A1","cents":500}'

Step = Callable[[int], Awaitable[None]]
"""Does one step of that many calls."""


@tool(effect=Effect.IDEMPOTENT)
async def refund(order_id: str, cents: int) -> dict[str, Any]:
    """Refund an order."""
    return {"refund": 4711, "order_id": order_id, "cents": cents}


def _asking(calls: int) -> Callable[[ModelRequest], Iterable[ModelEvent]]:
    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        if calls and request.items[-1].type != "mcp_call":
            for index in range(calls):
                yield ToolCall(f"call-{index}", "refund", _ARGUMENTS)
        else:
            yield TextDelta("done")

    return answer


@asynccontextmanager
async def _runtime(url: str) -> AsyncIterator[Runtime]:
    """A pod's runtime with an agent for each number of calls, none among them."""
    counts = (0, *CALLS)
    limits = Limits(calls_in_parallel=max(CALLS))
    agents = [Agent(f"a{n}", model=f"test:a{n}", tools=[refund], limits=limits) for n in counts]
    async with running(url, agents, {f"a{n}": _asking(n) for n in counts}) as runtime:  # type: ignore[arg-type]
        yield runtime


# --- the contenders ---------------------------------------------------------------------------------------------------


class _ByHand:
    """Four round trips for each call; the calls of a step side by side."""

    def __init__(self, client: Plain) -> None:
        self._client = client
        self._numbers = itertools.count()

    async def step(self, calls: int) -> None:
        await asyncio.gather(*(self._call(f"{next(self._numbers)}") for _ in range(calls)))

    async def _call(self, key: str) -> None:
        async with self._client.lock(f"lock:{key}", timeout=30):
            if await self._client.get(f"journal:{key}") is None:
                await self._client.set(f"journal:{key}", _OUTPUT, ex=86_400)


class _Journal:
    """The store's part of a step: plan and record. One run for each worker, begun before the clock starts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._idle: list[tuple[Place, itertools.count[int]]] = []

    async def begin(self) -> None:
        for _ in range(CONCURRENCY):
            place = await self._runtime.enter(self._runtime.begin("a0", "hello"))
            self._idle.append((place, itertools.count()))

    async def end(self) -> None:
        """Let the runs end: nobody shall go on with them."""
        for place, _ in self._idle:
            await self._runtime.admission.run(place)
        self._idle.clear()

    async def step(self, calls: int) -> None:
        place, numbers = self._idle.pop()
        try:
            await self._step(place, next(numbers), calls)
        finally:
            self._idle.append((place, numbers))

    async def recorded(self, calls: int) -> Place:
        """A run whose first step has all its outcomes."""
        place, numbers = self._idle.pop(0)
        await self._step(place, next(numbers), calls)
        self._idle.append((place, numbers))
        return place

    async def _step(self, place: Place, step: int, calls: int) -> None:
        owned, journal = place.owned, self._runtime.services.journal
        assert owned is not None
        planned = [
            Planned(
                *(effect_key(owned.session, owned.run.id, step, index), step, index, "refund", "idempotent"),
                *(_ARGUMENTS, f"call-{index}", f"mcp_{index}", index, owned.attempt, "bench"),
                *(owned.fence, wall_ms(), fingerprint(_ARGUMENTS)),
            )
            for index in range(calls)
        ]
        await journal.plan(owned, step, b"{}", [(one, True) for one in planned], Batch())
        outcomes = [
            Recorded(one.key, Outcome("recorded", _OUTPUT, None, wall_ms(), "bench", owned.attempt), "refund", "")
            for one in planned
        ]
        await journal.record(owned, f"{step}.0", outcomes, Batch())


async def _turn(runtime: Runtime, calls: int) -> None:
    _, end = await runtime.turn(f"a{calls}", "hello")
    assert end.status == "completed"


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Figures:
    """By number of calls, one entry a round. CPU of a step in µs: this process', and Redis'."""

    by_hand: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {n: [] for n in CALLS})
    journal: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {n: [] for n in CALLS})
    whole: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {n: [] for n in CALLS})
    """A turn with the step, less one without."""
    waits: Sequence[int] = ()
    replay: int = 0

    def ratios(self, ours: Mapping[int, Sequence[tuple[float, float]]], calls: int) -> list[float]:
        """Of our CPU to that by hand, one a round."""
        return [a[0] / b[0] for a, b in zip(ours[calls], self.by_hand[calls], strict=True)]


async def _slice(step: Step, calls: int, steps: int, redis_pid: int) -> tuple[float, float]:
    """CPU of a step in µs, here and in Redis."""

    async def work() -> None:
        for _ in range(steps):
            await step(calls)

    cpu, redis_cpu = time.process_time(), cpu_s(redis_pid)
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    done = steps * CONCURRENCY
    return (time.process_time() - cpu) * 1e6 / done, (cpu_s(redis_pid) - redis_cpu) * 1e6 / done


async def _costs(server: RedisServer, figures: Figures, rounds: int, calls_a_slice: int) -> None:
    """A first round is not counted."""
    async with _runtime(server.url) as runtime, Plain(port=server.port, max_connections=1_024) as client:
        by_hand, journal = _ByHand(client), _Journal(runtime)
        for round_number in range(rounds + 1):
            for calls in CALLS:
                say(f"round {round_number}, {calls} calls")
                steps = max(4, calls_a_slice // calls // CONCURRENCY)
                naive = await _slice(by_hand.step, calls, steps, server.pid)
                await journal.begin()
                ours = await _slice(journal.step, calls, steps, server.pid)
                await journal.end()
                with_step = await _slice(lambda n: _turn(runtime, n), calls, steps, server.pid)
                without = await _slice(lambda _: _turn(runtime, 0), calls, steps, server.pid)
                if round_number:
                    figures.by_hand[calls].append(naive)
                    figures.journal[calls].append(ours)
                    figures.whole[calls].append((with_step[0] - without[0], with_step[1] - without[1]))


async def _waits(server: RedisServer, figures: Figures) -> None:
    """What is waited for leaves in a write of its own: counted, as a turn with the step less one without."""
    async with _runtime(server.url) as runtime:

        async def writes(once: Callable[[], Awaitable[None]]) -> int:
            found = []
            for _ in range(_TRIES):
                before = runtime.writes
                await once()
                found.append(runtime.writes - before)
            return min(found)  # the pod's own timers write as well

        say("waits")
        alone = await writes(lambda: _turn(runtime, 0))
        figures.waits = [await writes(lambda n=n: _turn(runtime, n)) - alone for n in CALLS]  # type: ignore[misc]
        journal = _Journal(runtime)
        await journal.begin()
        figures.replay = min([await _replay(runtime, journal) for _ in range(_TRIES)])
        await journal.end()


async def _replay(runtime: Runtime, journal: _Journal) -> int:
    """Writes until a pod that takes a run over has the outcomes of a step of 16 calls."""
    place = await journal.recorded(CALLS[-1])
    owned = place.owned
    assert owned is not None
    before = runtime.writes
    claimed = await runtime.services.sessions.claim(place.session, Owner(place.run, owned.token, "bench"), new_id())
    writes = runtime.writes - before
    assert isinstance(claimed, Owned) and claimed.record is not None
    known = [outcome for _, _, outcome in read_effects(claimed.record["effects"]).values()]
    assert len(known) == CALLS[-1] and all(known)
    place.owned = claimed
    return writes


# --- the section of the page ------------------------------------------------------------------------------------------

_TEXT = """A step is one reply of a model that asks for 1, 4 or 16 calls at once of a tool that does nothing; 16
steps at once; the CPU is the client's. *By hand* is what many write: for each call redis-py's `Lock`, a GET of
the journal, a SET of the outcome, the release; there is no runtime around it. *Lock and journal* is the same
work here (`plan.lua`, `record.lua`). *Whole step* is a turn with the step less one without: the second question
to the model, the items, the checks of the arguments and a task for each call are in it."""
_WHOLE = (
    "the whole step has what the comparison has not: a second question to the model, the calls' items in response and "
    "history, arguments checked by their schema, a task and a time limit for each call"
)
_JOURNAL = (
    "a plan keeps what a recovery needs (arguments, class, attempt, fence, fingerprint: some 500 bytes a call) where "
    "the comparison keeps an output; the figure of the goal was measured for a journal of one field"
)


def section(figures: Figures, redis_version: str) -> Section:
    """Goal 4."""
    goals = [Goal(4, "waits for Redis that a step adds, 1, 4 and 16 calls", "equal", 2, figures.waits)]
    for calls in CALLS:
        what = f"CPU of lock and journal, {calls} call{'s' * (calls > 1)} / by hand"
        goals.append(Goal(4, what, "most", 0.15, figures.ratios(figures.journal, calls), _JOURNAL))
    for calls in (CALLS[0], CALLS[-1]):
        what = f"CPU of the whole step, {calls} call{'s' * (calls > 1)} / by hand without any runtime"
        goals.append(Goal(4, what, "most", 0.15, figures.ratios(figures.whole, calls), _WHOLE))
    what = "waits for Redis until a pod that takes over has all outcomes of a step of 16 calls"
    goals.append(Goal(4, what, "equal", 1, [figures.replay]))
    kinds = {"by hand": figures.by_hand, "lock and journal": figures.journal, "whole step": figures.whole}
    rows = [_row(name, kind, figures) for name, kind in kinds.items()]
    head = ["a step", *(f"CPU, {n} calls, µs" for n in CALLS), *(f"CPU of Redis, {n}, µs" for n in CALLS), "waits"]
    series = {
        name: [(float(group), median(cpu for cpu, _ in kind[n]) / n) for group, n in enumerate(CALLS)]
        for name, kind in kinds.items()
    }
    groups = [f"{n} calls" for n in CALLS]
    plot = Plot("tools-cpu", "CPU of a tool call, by the calls of its step", "", "µs a call", series, "bars", groups)
    kept = {f"step_cpu_us_{n}": median(cpu for cpu, _ in figures.whole[n]) for n in CALLS} | {
        f"step_redis_cpu_us_{n}": median(cpu for _, cpu in figures.whole[n]) for n in CALLS
    }
    title = "A step with tools (goal 4)"
    return Section("tools", title, _TEXT, goals, [Table(head, rows)], [plot], kept, redis_version=redis_version)


def _row(name: str, kind: Mapping[int, Sequence[tuple[float, float]]], figures: Figures) -> list[str]:
    told = {"by hand": "4 a call", "whole step": " / ".join(str(n) for n in figures.waits)}.get(name, "2")
    costs = [number(median(cost[side] for cost in kind[n])) for side in (0, 1) for n in CALLS]
    return [name, *costs, told]


def measured(quick: bool) -> Section:
    """Goal 4, measured."""
    rounds, calls = (2, 320) if quick else (7, 1_600)
    figures = Figures()
    with ExitStack() as stack:
        with on_core(LOAD_CORE):
            server = stack.enter_context(RedisServer())
        stack.enter_context(on_core(SERVER_CORE))
        uvloop.run(_waits(server, figures))
        uvloop.run(_costs(server, figures, rounds, calls))
        return section(figures, server.version)


if __name__ == "__main__":
    command_line("tools", "What a step with tools costs.", measured)
