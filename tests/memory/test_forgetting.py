"""What is forgotten stays forgotten, also where somebody is at work on it in that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from agentrt.errors import StoreUnavailable
from agentrt.memory.summary import KEEP_ITEMS, SEGMENT_ITEMS, Summary
from agentrt.memory.turns import Memory
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.models.scripted import last_user_text
from agentrt.records import Item
from agentrt.runtime.forgetting import Busy
from agentrt.store.keys import SessionKeys, UserKeys
from agentrt.store.users import Turn
from tests.memory.adapter import Adapter
from tests.memory.inside import USER, Tongue, idle, inside, stated, states, until
from tests.runtime.conftest import Runtime

SAID = "My word is zebra."
ZEBRA = [stated("word", "zebra", SAID)]


async def _first_item(runtime: Runtime, session: SessionKeys) -> Item:
    item = await runtime.services.conversations.item(session, 0)
    assert item is not None
    return item


async def _delete(runtime: Runtime, session: SessionKeys) -> str:
    """As the client's route does."""
    item = await _first_item(runtime, session)
    return (await runtime.surface.people.forgetting.stored(session, "u1", 0, item)).outcome


@pytest.mark.parametrize("route", ["/v1/conversations/{conversation}/items/{item}", "/operator/users/u1/turns/{item}"])
def test_an_item_that_the_extractor_is_at_work_on_becomes_no_fact(fresh: Adapter, route: str) -> None:
    """Deleted by its client or by an operator while the question about it is out: the answer comes to nothing."""
    adapter = fresh
    adapter.extractor.answers[SAID] = [{"subject": "user", "attribute": "word", "value": "zebra", "quote": SAID}]
    adapter.extractor.open.clear()
    conversation = adapter.person("t1", "u1").conversation
    body = {"model": "memory", "input": SAID, "user": "u1", "conversation": conversation}
    answer = adapter.call("POST", "/v1/responses", "t1", json=body)
    item = adapter.item("t1", answer["id"])
    assert adapter.extractor.waiting.acquire(timeout=30)
    adapter.call("DELETE", route.format(conversation=conversation, item=item), "t1")
    adapter.extractor.open.set()
    adapter.wait_idle()
    assert adapter.facts("t1", "u1") == []
    assert adapter.search("t1", "u1", "zebra", 5)["turns"] == []
    if route.startswith("/operator"):  # a client has its response until it deletes that
        assert b"zebra" not in adapter.dump()


async def test_an_item_that_was_read_before_it_was_deleted_is_not_remembered(redis_url: str) -> None:
    tongue = Tongue()
    tongue.answers[SAID] = ZEBRA
    async with inside(redis_url, tongue) as runtime:
        users, sessions = runtime.services.users, list[SessionKeys]()
        remember = users.remember

        async def deleted_first(user: UserKeys, gen: str, turns: Sequence[Turn]) -> int:
            assert SAID.encode() in turns[0].raw
            assert await _delete(runtime, sessions[0]) == "ok"
            return await remember(user, gen, turns)

        users.remember = deleted_first  # type: ignore[method-assign]
        runtime.services.jobs.finish = lambda *_: None  # type: ignore[method-assign]
        want, _ = await runtime.turn("a", SAID, user="u1")
        sessions.append(want.session)
        await runtime.services.jobs.enter("dev", f"ingest/dev/{want.session.id}/{want.run}")
        await idle(runtime)
        assert [one["text"] for one in await people_turns(runtime)] == ["ok"]
        assert await states(runtime) == {}
        assert tongue.asked == []


async def people_turns(runtime: Runtime) -> list[dict[str, Any]]:
    """All that is kept of the user beside facts."""
    return await runtime.surface.people.turns(USER, 0, 100)


async def test_forgetting_twice_and_remembering_again_change_nothing(redis_url: str) -> None:
    """A job that is done again, because its pod died, does not bring back what was forgotten since."""
    tongue = Tongue()
    tongue.answers[SAID] = ZEBRA
    async with inside(redis_url, tongue) as runtime:
        want, _ = await runtime.turn("a", SAID, user="u1")
        await idle(runtime)
        (fact,) = await runtime.surface.people.facts(USER, 0)
        await runtime.surface.people.forgetting.fact(USER, fact["id"])
        await runtime.services.jobs.enter("dev", f"ingest/dev/{want.session.id}/{want.run}")
        await idle(runtime)
        assert [one["text"] for one in await people_turns(runtime)] == ["ok"]
        assert set((await states(runtime)).values()) == {"forgotten"}


class Notes:
    """A summariser that answers with what it was given, and waits where a test wants it to."""

    def __init__(self) -> None:
        self.asked = 0
        self.held = False

    def __call__(self, request: ModelRequest) -> Iterable[ModelEvent | float]:
        self.asked += 1
        while self.held:
            yield 0.01
        yield TextDelta(last_user_text(request.items))


async def _long(runtime: Runtime) -> SessionKeys:
    """A conversation that is long enough for one segment, with SAID as its first message."""
    want, _ = await runtime.turn("a", SAID, user="u1")
    for number in range((SEGMENT_ITEMS + KEEP_ITEMS) // 2 - 1):
        await runtime.turn("a", f"word {number}", user="u1", session=want.session, create=False)
    return want.session


def _with(notes: Notes) -> dict[str, Any]:
    return {"more": {"n": notes}, "memory": {"summarizer": "test:n", "facts": False}}


async def test_a_summary_that_was_begun_before_an_item_was_deleted_is_not_kept(redis_url: str) -> None:
    """Neither for the conversation nor for recall in others; it is made anew, of what is left."""
    notes = Notes()
    notes.held = True
    async with inside(redis_url, Tongue(), **_with(notes)) as runtime:
        session = await _long(runtime)
        await until(lambda: _asked(notes))
        assert await _delete(runtime, session) == "ok"
        notes.held = False
        await idle(runtime)
        summary = Summary.decode((await runtime.services.users.summary(session)).raw)
        assert summary.upto == SEGMENT_ITEMS
        assert "zebra" not in summary.segments[0].text
        assert "word 1" in summary.segments[0].text
        told = [one["text"] for one in await people_turns(runtime) if one["role"] == "summary"]
        assert told == [summary.segments[0].text]


async def _asked(notes: Notes) -> int:
    return notes.asked


async def test_a_summary_goes_with_an_item_that_it_rests_on(redis_url: str) -> None:
    async with inside(redis_url, Tongue(), **_with(Notes())) as runtime:
        session = await _long(runtime)
        await idle(runtime)
        found = await runtime.surface.people.search(USER, "zebra", 5, 0)
        assert "zebra" in found["summaries"][0]["text"]
        await runtime.surface.people.forgetting.item(USER, (await _first_item(runtime, session)).id)
        assert (await runtime.services.users.summary(session)).raw == b""
        found = await runtime.surface.people.search(USER, "zebra", 5, 0)
        assert (found["turns"], found["summaries"]) == ([], [])


async def test_a_summary_of_what_was_forgotten_meanwhile_is_no_memory(redis_url: str) -> None:
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        users = runtime.services.users
        gen = (await users.greet(USER, "s").head()).gen
        await users.forget(USER, "", ["m2"], keep=True)
        raw = Memory.of("sum_1", "s", "summary", 0, "zebra", 0).encode()
        await users.recap(USER, gen, "sum_1", raw, ["m1", "m2"])
        assert await people_turns(runtime) == []
        await users.recap(USER, gen, "sum_1", raw, ["m1"])
        assert len(await people_turns(runtime)) == 1


def _held(hold: list[bool]) -> Any:
    def answer(_: ModelRequest) -> Iterable[ModelEvent | float]:
        while hold[0]:
            yield 0.01
        yield TextDelta("ok")

    return answer


@pytest.mark.parametrize("by", ["operator", "client"])
async def test_nothing_is_forgotten_while_the_conversation_is_busy(redis_url: str, by: str) -> None:
    """Whoever asks is told so, all of it stands as it was, and asking again forgets it."""
    hold, tongue = [False], Tongue()
    tongue.answers[SAID] = ZEBRA
    async with inside(redis_url, tongue, more={"m": _held(hold)}) as runtime:
        want, _ = await runtime.turn("a", SAID, user="u1")
        await idle(runtime)
        item, forgetting = await _first_item(runtime, want.session), runtime.surface.people.forgetting
        hold[0] = True
        live = asyncio.create_task(runtime.turn("a", "next", user="u1", session=want.session, create=False))

        async def busy() -> bool:
            header = await runtime.services.conversations.header(want.session)
            return header is not None and bool(header.live_run)

        await until(busy)
        if by == "operator":
            with pytest.raises(Busy):
                await forgetting.item(USER, item.id)
        else:
            assert await _delete(runtime, want.session) == "busy"
        assert (await _first_item(runtime, want.session)).id == item.id
        assert SAID in [one["text"] for one in await people_turns(runtime)]
        assert await states(runtime) == {("word", "zebra", "+"): "active"}
        hold[0] = False
        await live
        await idle(runtime)
        await forgetting.item(USER, item.id)
        assert await runtime.services.conversations.item(want.session, 0) is None
        assert await runtime.services.conversations.run(want.session, want.run) is None
        assert await states(runtime) == {}
        assert SAID not in [one["text"] for one in await people_turns(runtime)]


@pytest.mark.parametrize("what", ["fact", "item"])
@pytest.mark.parametrize("step", [1, 2, 3])
async def test_forgetting_can_be_asked_for_again(redis_url: str, what: str, step: int) -> None:
    """Redis goes away before the first, second or third write; asked again, all of it is done."""
    tongue = Tongue()
    tongue.answers[SAID] = ZEBRA
    async with inside(redis_url, tongue, more={"n": Notes()}, memory={"summarizer": "test:n"}) as runtime:
        session = await _long(runtime)
        await idle(runtime)
        (fact,) = await runtime.surface.people.facts(USER, 0)
        item, left = await _first_item(runtime, session), [step]
        users, conversations, forgetting = (
            runtime.services.users,
            runtime.services.conversations,
            runtime.surface.people.forgetting,
        )

        def dying(write: Any) -> Any:
            async def one(*args: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise StoreUnavailable("gone")
                return await write(*args, **more)

            return one

        for place, name in ((users, "forget"), (users, "resolve"), (conversations, "erase_item")):
            setattr(place, name, dying(getattr(place, name)))
        with pytest.raises(StoreUnavailable):
            await (forgetting.fact(USER, fact["id"]) if what == "fact" else forgetting.item(USER, item.id))
        await (forgetting.fact(USER, fact["id"]) if what == "fact" else forgetting.item(USER, item.id))
        assert set((await states(runtime)).values()) <= {"forgotten"}
        found = await runtime.surface.people.search(USER, "zebra", 5, 0)
        assert [one for one in (*found["turns"], *found["summaries"]) if "zebra" in one["text"]] == []
        assert (await conversations.item(session, 0) is None) is (what == "item")


async def test_a_forgotten_fact_is_in_no_summary_that_others_recall(redis_url: str) -> None:
    """Summaries of parts that did not say it stay."""
    tongue = Tongue()
    tongue.answers[SAID] = ZEBRA
    async with inside(redis_url, tongue, more={"n": Notes()}, memory={"summarizer": "test:n"}) as runtime:
        session = await _long(runtime)
        for number in range(SEGMENT_ITEMS // 2):
            await runtime.turn("a", f"more {number}", user="u1", session=session, create=False)
        await idle(runtime)
        assert len([one for one in await people_turns(runtime) if one["role"] == "summary"]) == 2
        (fact,) = await runtime.surface.people.facts(USER, 0)
        await runtime.surface.people.forgetting.fact(USER, fact["id"])
        (left,) = [one["text"] for one in await people_turns(runtime) if one["role"] == "summary"]
        assert "zebra" not in left
        block = await runtime.surface.people.context(USER, "what is my word zebra", 1)
        assert "zebra" not in block.text
