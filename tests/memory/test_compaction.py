"""Tidying loses nothing that somebody may still ask for."""

from __future__ import annotations

from agentrt.runtime.clock import wall_ms
from tests.memory.inside import USER, Tongue, idle, inside


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
