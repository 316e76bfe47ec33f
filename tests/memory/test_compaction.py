"""Tidying loses nothing that somebody may still ask for."""

from __future__ import annotations

import asyncio

import pytest

from agentrt.memory.turns import Memory
from agentrt.runtime.clock import wall_ms
from agentrt.store.users import Turn
from tests.memory.inside import USER, Tongue, idle, inside
from tests.runtime.conftest import Runtime


async def test_an_erasure_finds_single_runs_after_compaction(redis_url: str) -> None:
    """A run without a conversation has a session that nobody can name: only the user's index leads to it."""
    async with inside(redis_url, Tongue()) as runtime:
        want, _ = await runtime.turn("a", "alone zebra", user="u1", alone=True, options={"store": False})
        await idle(runtime)
        await runtime.surface.compaction.tidy(USER, "a", wall_ms())
        assert want.session.id in await runtime.services.users.sessions(USER)
        receipt = await runtime.surface.erasure.erase(USER, needles=["alone zebra"])
        assert receipt["scan"]["hits"] == []
        assert await runtime.services.conversations.header(want.session, alone=True) is None


async def _many(runtime: Runtime, count: int) -> None:
    now = wall_ms()
    kept = [Turn(f"m{n}", Memory.of(f"m{n}", "s", "assistant", 1, f"text {n}", now).encode()) for n in range(count)]
    await runtime.services.users.remember(USER, "", kept)


@pytest.mark.parametrize("what", ["compaction", "export"])
async def test_the_pod_goes_on_meanwhile(redis_url: str, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """All turns are decoded once, and never more than 256 before the event loop does something else."""
    count = 2_000
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        await _many(runtime, count)
        since, most, decode = [0, 0], [0], Memory.decode

        def counted(raw: bytes) -> Memory:
            since[0], since[1] = since[0] + 1, since[1] + 1
            most[0] = max(most[0], since[0])
            return decode(raw)

        async def others() -> None:
            while True:
                since[0] = 0
                await asyncio.sleep(0)

        monkeypatch.setattr(Memory, "decode", counted)
        beside = asyncio.create_task(others())
        if what == "compaction":
            assert (await runtime.surface.compaction.tidy(USER, "a", wall_ms()))["turns"] == 0
        else:
            assert len((await runtime.surface.people.export(USER))["turns"]) == count
        beside.cancel()
        assert since[1] == count
        assert most[0] <= 256


async def test_the_same_words_stand_once_and_the_one_that_stays_is_not_about_to_go(redis_url: str) -> None:
    """Of two turns in the same words the older stays; where that is past its time, the newer does."""
    now, day_ms = wall_ms(), 86_400_000
    ages = {"old": 30, "first": 2, "second": 1}
    kept = [
        Turn(i, Memory.of(i, "s", "assistant", 1, "hello there", now - d * day_ms).encode()) for i, d in ages.items()
    ]
    async with inside(redis_url, Tongue(), memory_turns_ttl_s=7 * 86_400) as runtime:
        await runtime.services.users.remember(USER, "", kept)
        assert (await runtime.surface.compaction.tidy(USER, "a", now))["turns"] == 2
        assert [one["item"] for one in await runtime.surface.people.turns(USER, 0, 10)] == ["first"]
        assert (await runtime.surface.compaction.tidy(USER, "a", now))["turns"] == 0
