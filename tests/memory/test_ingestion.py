"""Behind the turns: nothing is lost, nothing is blocked, and what cannot be drawn is kept for somebody to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import orjson
import pytest
import redis as redis_py

from agentrt.errors import ModelError, ScriptError, StoreUnavailable
from agentrt.models.base import ModelEvent, ModelRequest, ToolCall
from agentrt.models.scripted import last_user_text
from agentrt.runtime import ingestion, jobs
from agentrt.runtime.people import Said
from agentrt.store.keys import QueueKeys, UserKeys
from tests.memory.inside import USER, Tongue, idle, inside, stated, states, until

SAID = "I live in Porto."
PORTO = [stated("home_city", "Porto", SAID, card="one")]


async def test_an_extractor_that_is_away_costs_time_only(redis_url: str) -> None:
    """Turns go on, raw turns are recalled, and the facts come when it is back."""
    tongue = Tongue()
    tongue.answers[SAID] = ModelError("away", retryable=True, retry_after_s=0.05)
    async with inside(redis_url, tongue) as runtime:
        _, end = await runtime.turn("a", SAID, user="u1")
        assert end.status == "completed"
        await until(lambda: _asked(tongue, 3))
        assert await states(runtime) == {}
        found = await runtime.surface.people.search(USER, "Porto", 5, 0)
        assert found["turns"][0]["text"] == SAID
        tongue.answers[SAID] = PORTO
        await idle(runtime)
        assert await states(runtime) == {("home_city", "Porto", "+"): "active"}


async def _asked(tongue: Tongue, times: int) -> bool:
    return len(tongue.asked) >= times


async def test_nonsense_goes_to_the_dead_letters_and_comes_back_when_asked(redis_url: str) -> None:
    """Others of the same user are not held up by it."""
    tongue = Tongue()
    tongue.answers[SAID] = "}{ not json"
    tongue.answers["I'm Kim."] = [stated("name", "Kim", "I'm Kim.", card="one")]
    async with inside(redis_url, tongue) as runtime:
        await runtime.turn("a", SAID, user="u1")
        await runtime.turn("a", "I'm Kim.", user="u1")
        await idle(runtime)
        assert await states(runtime) == {("name", "Kim", "+"): "active"}
        (letter,) = await runtime.services.jobs.buried()
        await runtime.turn("a", "Something else.", user="u1")  # and all is well with it
        await idle(runtime)
        assert [one.name for one in await runtime.services.jobs.buried()] == [letter.name]
        assert letter.name == "user/dev/u1/a"
        assert "not a list of facts" in letter.reason
        assert tongue.asked.count(SAID) == 3
        tongue.answers[SAID] = PORTO
        await runtime.surface.people.revive(letter.name)
        await idle(runtime)
        assert (await states(runtime))["home_city", "Porto", "+"] == "active"
        assert await runtime.services.jobs.buried() == []


async def test_a_job_that_was_lost_with_its_pod_is_found_by_its_lease(redis_url: str) -> None:
    """The run is committed, and its pod dies before it could say what is to be done after it."""
    tongue = Tongue()
    tongue.answers[SAID] = PORTO
    async with inside(redis_url, tongue) as runtime:
        runtime.services.jobs.finish = lambda *_: None  # type: ignore[method-assign]
        await runtime.turn("a", SAID, user="u1")
        del runtime.services.jobs.finish
        with redis_py.Redis.from_url(redis_url) as outside:
            queue = QueueKeys()
            for member in outside.zrange(queue.leases, 0, -1):
                outside.zadd(queue.leases, {member: 1})
        await until(lambda: _drawn(runtime))


async def _drawn(runtime: object) -> bool:
    return bool(await states(runtime))  # type: ignore[arg-type]


async def test_a_job_is_done_once_whoever_is_asked(redis_url: str) -> None:
    """Asked for again and again, an item is remembered once and drawn from once."""
    tongue = Tongue()
    tongue.answers[SAID] = PORTO
    async with inside(redis_url, tongue) as runtime:
        want, _ = await runtime.turn("a", SAID, user="u1")
        for _ in range(3):
            await runtime.services.jobs.enter("dev", f"ingest/dev/{want.session.id}/{want.run}")
            await idle(runtime)
        overview = await runtime.surface.people.overview(USER)
        assert (overview["turns"], overview["facts"]) == (2, 1)
        assert tongue.asked == [SAID]
        (fact,) = await runtime.surface.people.facts(USER, 0)
        assert fact["support"] == 1


async def test_jobs_of_a_burst_leave_room_for_others(redis_url: str) -> None:
    """A tenant's jobs stand a little apart in time, so another's single job is not behind all of them."""
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        jobs = runtime.services.jobs
        await jobs.enter("loud", *(f"ingest/loud/{number}/x" for number in range(500)))
        await jobs.enter("quiet", "ingest/quiet/1/x")
        with redis_py.Redis.from_url(redis_url) as outside:
            order = [name.decode() for name in outside.zrange(QueueKeys().jobs, 0, -1)]
        assert order.index("ingest/quiet/1/x") < 400


async def test_what_is_taken_comes_back_when_its_lease_is_over(redis_url: str) -> None:
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        jobs = runtime.services.jobs
        await jobs.enter("dev", "user/dev/u1/a")
        (first,) = await jobs.take(5, 60_000)
        assert await jobs.take(5, 60_000) == []
        with redis_py.Redis.from_url(redis_url) as outside:
            outside.zadd(QueueKeys().jobs, {first.name: 1})
        (second,) = await jobs.take(5, 60_000)
        assert (second.name, second.tries) == (first.name, 2)
        await jobs.enter("dev", first.name)
        assert not await jobs.done(second)  # asked for meanwhile: it stays
        (third,) = await jobs.take(5, 60_000)
        assert await jobs.done(third)
        assert await jobs.take(5, 60_000) == []


async def test_a_job_that_is_asked_for_while_it_is_given_up_is_done_again(redis_url: str) -> None:
    """A message that comes during the last try: it is not among the dead letters, and has all its tries."""
    async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
        jobs = runtime.services.jobs
        await jobs.enter("dev", "user/dev/u1/a")
        (job,) = await jobs.take(1, 60_000)
        await jobs.enter("dev", "user/dev/u1/a")
        assert not await jobs.bury(job, "in vain", 1)
        assert await jobs.buried() == []
        (again,) = await jobs.take(1, 60_000)
        assert (again.name, again.tries) == (job.name, 1)
        assert await jobs.bury(again, "in vain", 1)
        assert await jobs.take(1, 60_000) == []
        assert [one.name for one in await jobs.buried()] == [job.name]


async def test_an_item_that_is_given_up_hides_none_behind_it(redis_url: str) -> None:
    tongue = Tongue()
    tongue.answers["bad"] = "}{"
    said = [Said("m0", "user", "bad", 1), *(Said(f"m{n}", "user", f"text {n}", 1) for n in range(1, 40))]
    async with inside(redis_url, tongue, memory_jobs=0) as runtime:
        await runtime.surface.people.remember(USER, said)
        gen, pending = await runtime.services.users.pending(USER)
        await runtime.services.users.retry(USER, gen, replace(pending[0], tries=2, reason="nonsense"))
    async with inside(redis_url, tongue) as runtime:
        await idle(runtime)
        assert [one.item for one in (await runtime.services.users.pending(USER))[1]] == ["m0"]


async def test_what_a_slow_extractor_has_answered_is_kept(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs out of its time has written what was answered; the next one goes on from there."""
    monkeypatch.setattr(jobs, "_TIMEOUT_S", 1.0)
    quick = {f"text {n}" for n in range(4)}

    def slow(request: ModelRequest) -> Iterable[ModelEvent | float]:
        while orjson.loads(last_user_text(request.items))["message"] not in quick:
            yield 0.01
        yield ToolCall("c", "record_facts", '{"facts":[]}')

    async with inside(redis_url, slow) as runtime:
        await runtime.surface.people.remember(USER, [Said(f"m{n}", "user", f"text {n}", 1) for n in range(16)])

        async def four_less() -> bool:
            return len((await runtime.services.users.pending(USER))[1]) == 12

        await until(four_less)
        quick.update(f"text {n}" for n in range(16))
        await idle(runtime)
        assert await runtime.services.jobs.buried() == []
        assert (await runtime.services.users.pending(USER))[1] == []


async def test_a_job_that_gets_on_uses_up_no_tries(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job has time for one group of items only, and there are more groups than tries."""
    monkeypatch.setattr(ingestion, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(jobs, "_TRIES_MAX", 2)
    async with inside(redis_url, Tongue()) as runtime:
        await runtime.surface.people.remember(USER, [Said(f"m{n}", "user", f"text {n}", 1) for n in range(40)])
        await idle(runtime)
        assert await runtime.services.jobs.buried() == []
        assert (await runtime.services.users.pending(USER))[1] == []


@pytest.mark.parametrize("lasts", [True, False])
async def test_a_job_that_redis_refuses_for_good_is_given_up(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    """Not one that met a Redis that was away: that is no try of the job's."""
    monkeypatch.setattr(jobs, "_TRIES_MAX", 2)
    monkeypatch.setattr(jobs, "backoff_s", lambda _: 0.01)
    async with inside(redis_url, Tongue()) as runtime:
        users, met = runtime.services.users, list[str]()
        memories = users.memories

        async def refused(user: UserKeys, start: int, end: int) -> list[tuple[int, bytes]]:
            met.append(user.user)
            if lasts:
                raise ScriptError("Redis refused a command: WRONGTYPE")
            if len(met) < 4:
                raise StoreUnavailable("away")
            return await memories(user, start, end)

        users.memories = refused  # type: ignore[method-assign]
        await runtime.surface.people.remember(USER, [Said("m1", "user", "text", 1)])
        await idle(runtime)
        assert [one.name for one in await runtime.services.jobs.buried()] == (["user/dev/u1/a"] if lasts else [])
        assert len(met) == (2 if lasts else 4)
