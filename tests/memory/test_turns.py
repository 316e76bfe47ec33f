"""What a turn is given of the past, and what that costs it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentrt.memory.block import HEAD
from agentrt.memory.summary import Summary
from agentrt.models.base import ModelRequest
from agentrt.models.scripted import texts
from agentrt.runtime import recollections
from agentrt.runtime.clock import wall_ms
from agentrt.store.keys import SessionKeys, UserKeys, new_id
from tests.memory.inside import Tongue, idle, inside, stated


async def test_a_turn_with_a_memory_waits_for_redis_twice(redis_url: str) -> None:
    """Profile, news of the index and summary come with begin; with the index in this pod nothing else is read."""
    tongue = Tongue()
    tongue.answers["I live in Porto."] = [stated("home_city", "Porto", "I live in Porto.", card="one")]
    heard: list[ModelRequest] = []
    async with inside(redis_url, tongue, heard, memory_jobs=0) as runtime:
        want, _ = await runtime.turn("a", "I live in Porto.", user="u1")
        await runtime.surface.people.remember(UserKeys("dev", "u1"), [])
        for text in ("warm up: the index is read", "hello", "hello again"):
            before = runtime.writes
            await runtime.turn("a", text, user="u1", session=want.session, create=False)
            waits = runtime.writes - before
        assert waits in {2, 3}  # the leases of turns are ended later, together with other writes; nobody waits for it


async def test_the_past_stands_between_instructions_and_window(redis_url: str) -> None:
    """A message of data, never a part of the instructions: facts, then recalled turns with date and speaker."""
    tongue, said = Tongue(), "I'm allergic to nuts and I moved to Porto."
    tongue.answers[said] = [
        stated("allergy", "nuts", "I'm allergic to nuts"),
        stated("home_city", "Porto", "I moved to Porto", card="one"),
    ]
    heard: list[ModelRequest] = []
    async with inside(redis_url, tongue, heard) as runtime:
        await runtime.turn("a", said, user="u1")
        await idle(runtime)
        want, _ = await runtime.turn("a", "first words", user="u1", session=SessionKeys("dev", new_id()))
        _, end = await runtime.turn("a", "Where did I move to?", user="u1", session=want.session, create=False)
    request = heard[-1]
    assert request.instructions == "Be kind."
    lines = [texts(item) for item in request.items]
    assert lines[0].startswith(HEAD)
    assert lines[1:] == ["first words", "ok", "Where did I move to?"]
    assert lines[0].index("allergy: nuts") < lines[0].index("home_city: Porto") < lines[0].index(f"user] {said}")
    note = orjson.loads(orjson.loads(end.result)["metadata"]["agentrt_context"])
    assert len(note["facts"]) == 2
    assert {"profile", "recall"} <= set(note["tokens"])


async def test_what_the_window_shows_is_not_recalled_too(redis_url: str) -> None:
    heard: list[ModelRequest] = []
    async with inside(redis_url, Tongue(), heard) as runtime:
        want, _ = await runtime.turn("a", "The otter is called Ida.", user="u1")
        await idle(runtime)
        await runtime.turn("a", "What is the otter called?", user="u1", session=want.session, create=False)
    assert [texts(item) for item in heard[-1].items] == ["The otter is called Ida.", "ok", "What is the otter called?"]


async def test_another_users_session_gives_away_nothing(redis_url: str) -> None:
    """Who names somebody else's conversation is not given their own memory in it, nor theirs elsewhere."""
    tongue = Tongue()
    tongue.answers["My pin is 4471."] = [stated("pin", "4471", "My pin is 4471.", card="one")]
    heard: list[ModelRequest] = []
    async with inside(redis_url, tongue, heard) as runtime:
        await runtime.turn("a", "My pin is 4471.", user="u1")
        await idle(runtime)
        want, _ = await runtime.turn("a", "hello", user="u2")
        await runtime.turn("a", "What is my pin?", user="u1", session=want.session, create=False)
        assert not any("4471" in texts(item) for item in heard[-1].items)
        await runtime.turn("a", "What is my pin?", user="u2")
        assert not any("4471" in texts(item) for item in heard[-1].items)
        await runtime.turn("a", "What is my pin?", user="u1")
        assert any("4471" in texts(item) for item in heard[-1].items)


async def test_an_agent_without_a_memory_is_given_none(redis_url: str) -> None:
    heard: list[ModelRequest] = []
    async with inside(
        redis_url, Tongue(), heard, memory={"facts": False, "recall": False, "summary": False}
    ) as runtime:
        await runtime.turn("a", "The otter is called Ida.", user="u1")
        await idle(runtime)
        await runtime.turn("a", "What is the otter called?", user="u1")
        assert [texts(item) for item in heard[-1].items] == ["What is the otter called?"]
        assert (await runtime.surface.people.overview(UserKeys("dev", "u1")))["turns"] == 0


async def test_what_does_not_fit_the_window_is_summed_up(redis_url: str) -> None:
    """Messages so long that ten of them overflow the context: in every turn each is in the window, or was summed up."""
    heard: list[ModelRequest] = []
    tail = "lorem ipsum dolor sit amet " * 500
    async with inside(redis_url, Tongue(), heard) as runtime:
        place: dict[str, Any] = {}
        covered = 0
        for number in range(12):
            want, _ = await runtime.turn("a", f"zebra{number} {tail}", **place)
            whole = [item.raw for item in heard[-1].items if len(item.raw) > len(tail)]
            shown = {n for n in range(12) if any(f"zebra{n} ".encode() in raw for raw in whole)}
            assert shown | set(range(covered // 2)) == set(range(number + 1)), (number, covered, shown)
            await idle(runtime)
            covered = Summary.decode((await runtime.services.users.summary(want.session)).raw).upto
            place = {"session": want.session, "create": False}
    assert 0 < len(shown) < 12 and covered > 0


async def test_a_pod_lets_go_of_users_that_do_not_come_back(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing but their facts is read."""
    tongue, said = Tongue(), "I live in Porto."
    tongue.answers[said] = [stated("home_city", "Porto", said)]
    users = ["u1", "u2", "u3"]
    async with inside(redis_url, tongue, memory={"recall": False}) as runtime:
        held = runtime.services.recollections
        for user in users:
            await runtime.turn("a", said, user=user)
        await idle(runtime)
        for user in users:
            await runtime.turn("a", "hi", user=user)
        assert held.held == [f"dev/{user}" for user in users]
        monkeypatch.setattr(recollections, "_IDLE_S", 0.0)
        await runtime.turn("a", "hi", user="u2")
        assert held.held == ["dev/u2"]


async def test_what_has_ended_pushes_nothing_out_of_the_profile(redis_url: str) -> None:
    """Seventy stays that are over, and two facts that stand: a turn is given those two."""
    day_ms = 86_400_000
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        people, user, now = runtime.surface.people, UserKeys("dev", "u1"), wall_ms()
        await people.set(user, attribute="employer", value="Acme", at=now - 9 * day_ms)
        await people.set(user, attribute="dentist", value="Dr Who", at=now - 9 * day_ms)
        for number in range(70):
            await people.set(user, attribute="stay", value=f"town {number}", at=now - day_ms, until=now - day_ms + 1)
        block = await people.context(user, "hello there", now)
        assert "Acme" in block.text and "Dr Who" in block.text
        assert "town" not in block.text
        assert (await runtime.services.users.head(user)).left == 0
