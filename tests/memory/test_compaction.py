"""Tidying loses nothing that somebody may still ask for."""

from __future__ import annotations

import asyncio

import pytest

from agentrt.agent import Memory as Policy
from agentrt.memory.turns import Memory
from agentrt.records import COMPACTED, Item, seal
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.people import Said
from agentrt.runtime.summaries import _line
from agentrt.store.keys import new_id
from agentrt.store.users import Turn
from tests.harness.redis_server import RedisServer
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


async def test_many_turns_are_tidied_up_whoever_speaks(redis_url: str) -> None:
    """An agent that draws no facts: its users' turns are bounded all the same."""
    async with inside(redis_url, Tongue(), memory_turns_max=10) as runtime:
        said = [Said(f"m{n}", "assistant", f"text number {n}", 1) for n in range(260)]
        await runtime.surface.people.remember(USER, said)
        await idle(runtime)
        assert len((await runtime.surface.people.export(USER))["turns"]) == 10


async def test_the_index_of_conversations_lives_as_long_as_they_do(redis_url: str, redis_server: RedisServer) -> None:
    """Or an erasure would not find them."""
    async with inside(redis_url, Tongue(), memory_ttl_s=60) as runtime:
        want, _ = await runtime.turn("a", "hello", user=USER.user)
        with redis_server.client() as client:
            assert client.ttl(USER.sessions) >= client.ttl(want.session.hash) - 5
            assert client.ttl(USER.hash) <= 60


def test_what_a_summary_is_made_of() -> None:
    """What leaves the window is in it: also the notes that stood for all before, and what the client's tools said."""
    notes = {"type": "compaction", "id": "c", "encrypted_content": seal(COMPACTED, {"summary": "They moved to Porto."})}
    output = {"type": "function_call_output", "call_id": "1", "output": "it is 7 degrees"}
    lines = [_line(Item.given(data, new_id(), 0), Policy()) for data in (notes, output)]
    assert lines == ["before this: They moved to Porto.", "the tool: it is 7 degrees"]
