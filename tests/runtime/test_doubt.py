"""Effects in doubt: what they mean for the session, how they are resolved, and what comes late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent, Effect, ToolContext
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.runtime.admission import Place
from agentrt.runtime.calls import IN_DOUBT_TEXT, Call, next_move
from agentrt.runtime.refusals import InDoubt, Overloaded
from agentrt.runtime.resolution import continuation, report, resolve
from agentrt.runtime.turn import TurnEnd
from agentrt.store.doubts import Doubted
from agentrt.store.journal import Intent, Planned
from agentrt.tools.function import FunctionTool, tool
from tests.harness.redis_server import RedisServer
from tests.runtime.conftest import Runtime, running

Body = Callable[[TurnEnd], dict[str, Any]]


def last_words(request: ModelRequest) -> str:
    """What the newest message says."""
    return next(str(item.data["content"][0]["text"]) for item in reversed(request.items) if item.type == "message")


def script(request: ModelRequest) -> Iterable[ModelEvent]:
    """`call T` calls tool T; everything else, and what came of a call, is answered with what the model has read."""
    said = last_words(request)
    newest = request.items[len(request.items) - 1]
    if newest.type == "mcp_call":
        yield TextDelta(str(newest.data["output"]))
    elif said.startswith("call "):
        yield ToolCall("c", said.removeprefix("call "), "{}")
    else:
        notes = [str(item.data["content"][0]["text"]) for item in request.items if item.data.get("role") == "developer"]
        yield TextDelta(" / ".join(notes) or said)


def breaking(in_doubt: Any = "tell") -> FunctionTool:
    """A tool whose connection breaks: nobody knows whether it did anything."""

    @tool(in_doubt=in_doubt)
    async def pay() -> str:
        """Pay."""
        raise RuntimeError("wrapped") from ConnectionResetError("secret-4711")

    return pay


@tool
async def greet() -> str:
    """Greet."""
    return "hello"


async def only(runtime: Runtime) -> Doubted:
    found = await runtime.services.doubts.listed()
    assert len(found) == 1
    return found[0]


async def test_tell(redis_url: str, body: Body) -> None:
    """The run goes on, the tool is refused in this session, and the resolution is told before the next turn."""
    agent = Agent("a", model="test:m", tools=[breaking(), greet])
    async with running(redis_url, [agent], {"m": script}) as runtime:
        want, end = await runtime.turn("a", "call pay")
        assert body(end)["output"][0]["output"] == f"The tool failed with RuntimeError. {IN_DOUBT_TEXT}"
        assert b"secret-4711" not in end.result
        doubted = await only(runtime)
        assert report(doubted)["tool"] == "pay"
        assert continuation(doubted) is None

        _, end = await runtime.turn("a", "call pay", session=want.session)
        assert body(end)["output"][0]["output"] == IN_DOUBT_TEXT
        assert len(await runtime.services.doubts.listed()) == 1, "what is refused is in no doubt"
        _, end = await runtime.turn("a", "call greet", session=want.session)
        assert body(end)["output"][0]["output"] == "hello"
        _, end = await runtime.turn("a", "call pay")
        assert body(end)["output"][0]["output"].startswith("The tool failed"), "other sessions know nothing of it"

        known = await resolve(runtime.services.doubts, doubted, True, {"paid": 7}, "ann")
        assert known is not None
        assert await resolve(runtime.services.doubts, doubted, False, None, "bob") == known, "the first one stands"
        _, end = await runtime.turn("a", "so?", session=want.session)
        text = body(end)["output"][-1]["content"][0]["text"]
        assert text == 'The outcome of the earlier call pay({}) is known now: it took effect. Its output: {"paid":7}'
        items = await runtime.services.conversations.items(want.session, 0, 1000)
        assert [number for number, _ in items] == list(range(len(items)))
        ids = [orjson.loads(line.split(b"\n")[0])["id"] for _, line in items]
        assert all(identifier.endswith(str(number)) for number, identifier in enumerate(ids))
        _, end = await runtime.turn("a", "call pay", session=want.session)
        assert body(end)["output"][0]["output"].startswith("The tool failed"), "the tool may be called again"


async def test_block(redis_server: RedisServer, redis_url: str, body: Body) -> None:
    """The response is incomplete, everybody else is refused, and the resolution starts a run that goes on."""
    agent = Agent("a", model="test:m", tools=[breaking("block")])
    async with running(redis_url, [agent], {"m": script}) as runtime:
        want = runtime.begin("a", "call pay")
        place = await runtime.enter(want)
        waiting = asyncio.create_task(runtime.turn("a", "me too", session=want.session))
        with redis_server.client() as client:
            while not client.hget(want.session.hash, "waiters"):
                await asyncio.sleep(0.01)
        end = await runtime.admission.run(place)
        assert end is not None
        final = body(end)
        assert (final["status"], final["metadata"]["agentrt_incomplete"]) == ("incomplete", "effect_in_doubt")
        with pytest.raises(InDoubt):
            await waiting
        with pytest.raises(InDoubt) as refused:
            await runtime.turn("a", "and me", session=want.session)
        doubted = await only(runtime)
        assert refused.value.effect == str(doubted.place)

        await resolve(runtime.services.doubts, doubted, False, None, "ann")
        begin = continuation(doubted)
        assert begin is not None
        assert await runtime.admission.bring(begin)
        assert await runtime.services.conversations.run(begin.session, begin.run), "what is told to go on has begun"
        while (state := await runtime.following.result(Place(begin.session, begin.run))) is None:
            await asyncio.sleep(0.01)
        text = orjson.loads(state.result)["output"][-1]["content"][0]["text"]
        assert text == "The outcome of the earlier call pay({}) is known now: it did not take effect."
        _, end = await runtime.turn("a", "hello", session=want.session)
        assert end.status == "completed"
        again = continuation(doubted)
        assert again is not None
        assert again.run == begin.run, "however often it is resolved, one run goes on"


async def test_of_two_doubts_the_last_one_that_is_resolved_goes_on(redis_url: str) -> None:
    """Two calls of one step; nothing is told to go on while the other one still holds up the session."""

    def twice(request: ModelRequest) -> Iterable[ModelEvent]:
        if last_words(request) == "pay" and request.items[len(request.items) - 1].type == "message":
            yield from (ToolCall("c1", "pay", "{}"), ToolCall("c2", "pay", "{}"))
        else:
            yield TextDelta("ok")

    agent = Agent("a", model="test:m", tools=[breaking("block")])
    async with running(redis_url, [agent], {"m": twice}) as runtime:
        await runtime.turn("a", "pay")
        for number, doubted in enumerate(await runtime.services.doubts.listed()):
            await resolve(runtime.services.doubts, doubted, False, None, "ann")
            begin = continuation(doubted)
            assert begin is not None
            assert await runtime.admission.bring(begin) is (number == 1)
            begun = await runtime.services.conversations.run(begin.session, begin.run)
            assert (begun is not None) is (number == 1)


async def test_what_goes_on_is_not_refused(redis_url: str) -> None:
    """It was told to the operator, and nobody would ask for it again: no full pod, queue or quota loses it."""
    agent = Agent("a", model="test:m", tools=[breaking("block")])
    limits = {"max_runs": 1, "queue_limit": 0, "tenant_runs": 1}
    async with running(redis_url, [agent], {"m": script}, **limits) as runtime:
        await runtime.turn("a", "call pay")
        doubted = await only(runtime)
        await resolve(runtime.services.doubts, doubted, False, None, "ann")
        begin = continuation(doubted)
        assert begin is not None
        quotas, runs = runtime.services.allowance.quotas, runtime.surface.runs
        used = runtime.services.allowance.limits("dev")
        assert (await quotas.verdict(quotas.entering("dev", "another/run", used), used)).outcome == "ok"
        runs.expected += 1  # the only slot
        with pytest.raises(Overloaded):
            await runtime.turn("a", "hello")
        runtime.admission.bring(begin)
        async with asyncio.timeout(20):
            while await runtime.services.conversations.run(begin.session, begin.run) is None:
                await asyncio.sleep(0.01)
            runs.expected -= 1
            runs.on_free()
            state = await runtime.following.result(Place(begin.session, begin.run))
        assert state is not None and state.status == "completed"


async def test_a_thread_that_outlives_its_call(redis_url: str) -> None:
    """A sync tool cannot be stopped: its call is in doubt, and what it returns in the end is kept as evidence."""
    release = threading.Event()

    @tool(timeout=0.05)
    def pay() -> str:
        """Pay."""
        release.wait(10)
        return "paid"

    async with running(redis_url, [Agent("a", model="test:m", tools=[pay])], {"m": script}) as runtime:
        await runtime.turn("a", "call pay")
        assert (await only(runtime)).late_result is None
        release.set()
        while (late := (await only(runtime)).late_result) is None:
            await asyncio.sleep(0.01)
        assert late.output == "paid"


async def test_a_result_that_comes_after_the_run_was_lost(redis_server: RedisServer, redis_url: str) -> None:
    """The pod lost its session while the tool ran: its record is refused, its result is kept."""
    started, release = asyncio.Event(), asyncio.Event()

    @tool
    async def pay(ctx: ToolContext) -> str:
        """Pay."""
        started.set()
        await release.wait()
        return ctx.idempotency_key

    async with running(redis_url, [Agent("a", model="test:m", tools=[pay])], {"m": script}) as runtime:
        want = runtime.begin("a", "call pay")
        task = runtime.admission.run_in_background(await runtime.enter(want))
        await started.wait()
        with redis_server.client() as client:
            client.hset(want.session.hash, mapping={"owner": "another", "fence": 2**60})
            release.set()
            assert await task is None
            journal = client.hgetall(want.session.run(want.run).effects)
    late = [(name, orjson.loads(value)) for name, value in journal.items() if name.endswith(b"~")]
    assert [value["output"].encode() + b"~" for _, value in late] == [name for name, _ in late]
    assert len(late) == 1
    assert not any(name.endswith(b"!") for name in journal)


@pytest.mark.parametrize(("age_s", "move"), [(59, "run_after_lock"), (61, "judge_after_lock")])
def test_a_key_that_the_downstream_has_forgotten(age_s: int, move: str) -> None:
    """Past its key's time an idempotent call is no safer than any other."""

    @tool(effect=Effect.IDEMPOTENT, key_ttl=60)
    async def pay() -> str:
        """Pay."""
        return "paid"

    planned = Planned("k" * 64, 0, 0, "pay", "idempotent", "{}", "c", "i", 0, 1, "pod", at=1_000)
    call = Call(planned, pay, {}, intent=Intent(0, "another"))
    assert next_move(call, "mine", 1_000 + age_s * 1000) == move


async def test_what_is_needed_to_resolve_it_stays(redis_server: RedisServer, redis_url: str) -> None:
    """Its run cannot be deleted, and one whose session is for it alone is kept as long as others are."""
    agent = Agent("a", model="test:m", tools=[breaking("block")])
    async with running(redis_url, [agent], {"m": script}) as runtime:
        conversations, doubts = runtime.services.conversations, runtime.services.doubts
        want, _ = await runtime.turn("a", "call pay", alone=True, options={"store": False})
        run = want.session.run(want.run)
        with redis_server.client() as client:
            kept = (want.session.hash, want.session.items, want.session.runs, run.hash, run.effects)
            assert min(client.ttl(key) for key in kept) > 29 * 86_400
        assert await conversations.delete_run(want.session, want.run) == "in_doubt"
        (doubted,) = await doubts.listed()
        assert await resolve(doubts, doubted, False, None, "me") is not None
        assert await conversations.delete_run(want.session, want.run) == "ok"
