"""Moments that nobody can show: refused at the door, harmless where they stand already."""

from __future__ import annotations

import orjson
import pytest
import redis as redis_py

from agentrt.http.errors import ApiError
from agentrt.http.requests import check_moment
from agentrt.memory import extract
from agentrt.memory.dates import date, day_of, iso, moment
from agentrt.memory.facts import Fact
from tests.memory.inside import USER, Tongue, idle, inside, stated, states

SAID = "My permit holds for ever."
LAST_MS = 253_402_300_799_999
FAR = ["9999-12-31T23:59:59-08:00", "0001-01-01T00:00:00+08:00"]


@pytest.mark.parametrize("text", FAR)
def test_what_utc_has_no_year_for_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="not a moment"):
        moment(text)
    with pytest.raises(ApiError):
        check_moment({"metadata": {"agentrt_at": text}})


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00", "2024-02-29T12:00:00-11:00"]
)
def test_every_moment_can_be_shown(text: str) -> None:
    assert iso(moment(text))[:4] == text[:4]


@pytest.mark.parametrize("at_ms", [LAST_MS + 1, 10**18, -(10**18)])
def test_what_is_stored_is_shown_whatever_it_is(at_ms: int) -> None:
    assert iso(at_ms)[:10] == date(at_ms // 86_400_000)
    assert iso(at_ms)[:4] in {"9999", "0001"}
    assert day_of(at_ms).year in {9999, 1}


@pytest.mark.parametrize(
    ("more", "until"),
    [({"valid_until": FAR[0]}, None), ({"ttl": 1e308}, None), ({"valid_until": FAR[1]}, "0001-01-01")],
)
def test_an_end_that_cannot_be_shown_is_none(more: dict[str, object], until: str | None) -> None:
    answer = orjson.dumps([stated("permit", "parking", SAID, **more)]).decode()
    (taken,), _ = extract.accept(extract.parse(answer), SAID, "m1", 1)
    ends = taken.sighting.until
    assert (None if ends is None else iso(ends)[:10]) == until


async def test_a_fact_with_such_an_end_breaks_no_turn(redis_url: str) -> None:
    """Neither one that is stated now nor one that was stored by a pod that did not look."""
    tongue = Tongue()
    tongue.answers[SAID] = [stated("permit", "parking", SAID, valid_until=FAR[0])]
    async with inside(redis_url, tongue) as runtime:
        people = runtime.surface.people
        await runtime.turn("a", SAID, user="u1")
        await idle(runtime)
        assert await states(runtime) == {("permit", "parking", "+"): "active"}
        with redis_py.Redis.from_url(redis_url) as outside:
            ((identifier, raw),) = outside.hgetall(USER.facts).items()
            fact = Fact.decode(identifier.decode(), raw)
            fact.sightings = {key: one._replace(until=LAST_MS + 1) for key, one in fact.sightings.items()}
            outside.hset(USER.facts, identifier, fact.encode())
        await people.set(USER, attribute="home_city", value="Porto")  # the profile is written anew
        _, end = await runtime.turn("a", "Hello?", user="u1")
        assert end.status == "completed"
        assert {one["valid_until"] for one in await people.facts(USER, 0)} == {None, "9999-12-31T23:59:59Z"}
        assert await people.export(USER)


async def test_a_defect_about_one_item_is_that_items_failure(redis_url: str) -> None:
    """The others of the batch become facts; the item waits for somebody to look."""
    tongue = Tongue()
    tongue.answers["Odd."] = RuntimeError("a defect")
    tongue.answers[SAID] = [stated("permit", "parking", SAID)]
    async with inside(redis_url, tongue, memory_jobs=0) as runtime:
        await runtime.turn("a", "Odd.", user="u1")
        await runtime.turn("a", SAID, user="u1")
    async with inside(redis_url, tongue) as runtime:
        await idle(runtime)
        assert await states(runtime) == {("permit", "parking", "+"): "active"}
        (left,) = (await runtime.services.users.pending(USER))[1]
        assert left.reason
        assert [one.name for one in await runtime.services.jobs.buried()] == ["user/dev/u1/a"]
