"""How often a turn waits for Redis: twice, and twice more for each step with tools, whatever the number of calls."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agentrt.agent import Agent, Effect
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned, Owner
from agentrt.tools.function import tool
from tests.runtime.conftest import Runtime, running


@tool(effect=Effect.READ_ONLY)
async def look() -> str:
    """Look."""
    return "seen"


def stepping(steps: int, calls: int) -> object:
    """A model that asks for `calls` calls in each of `steps` steps."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        done = sum(item.type == "mcp_call" for item in request.items)
        if done < steps * calls:
            for number in range(calls):
                yield ToolCall(f"call-{number}", "look", "{}")
        else:
            yield TextDelta("done")

    return answer


async def unwaited(runtime: Runtime, waits: int) -> int:
    """Writes beside those that a turn waits for; the least of three, since the pod's own timers write as well.

    The leases of the warm-up and of this turn are ended later, together with other writes; nobody waits for it.
    """
    found = []
    for _ in range(3):
        before = runtime.writes
        _, end = await runtime.turn("a", "hello")
        assert end.status == "completed"
        found.append(runtime.writes - before - waits)
    return min(found)


@pytest.mark.parametrize(("steps", "calls", "waits"), [(0, 0, 2), (1, 1, 4), (1, 8, 4), (3, 4, 8)])
async def test_waits_for_redis(redis_url: str, steps: int, calls: int, waits: int) -> None:
    """A turn without tools waits twice, a tool step adds two."""
    agent = Agent("a", model="test:m", tools=[look])
    async with running(redis_url, [agent], {"m": stepping(steps, calls)}) as runtime:  # type: ignore[dict-item]
        await runtime.turn("a", "warm up: the scripts are loaded on first use")
        assert await unwaited(runtime, waits) in {0, 1}


async def test_a_quota_costs_no_wait(redis_url: str) -> None:
    """A turn of a tenant with every limit waits for Redis as often as one without."""
    limits = {"tenant_runs": 100, "tenant_turns_per_minute": 100, "tenant_tokens_per_day": 10**9}
    answer = stepping(0, 0)
    async with running(redis_url, [Agent("a", model="test:m")], {"m": answer}, **limits) as runtime:  # type: ignore[dict-item]
        await runtime.turn("a", "warm up: the scripts are loaded on first use")
        assert await unwaited(runtime, 2) in {0, 1}


async def test_a_takeover_waits_once(redis_url: str) -> None:
    """The claim brings all that the pod needs to go on: window, run and journal."""
    agent = Agent("a", model="test:m", tools=[look])
    async with running(redis_url, [agent], {"m": stepping(0, 0)}) as runtime:  # type: ignore[dict-item]
        found = []
        for _ in range(3):
            place = await runtime.enter(runtime.begin("a", "hello"))
            assert place.owned is not None
            before = runtime.writes
            dead = Owner(place.run, place.owned.token, "pod")
            claimed = await runtime.services.sessions.claim(place.session, dead, new_id())
            found.append(runtime.writes - before)
            assert isinstance(claimed, Owned) and claimed.record is not None
            assert claimed.record["status"] == b"running"
            place.owned = claimed
            await runtime.admission.run(place)
        assert min(found) == 1
