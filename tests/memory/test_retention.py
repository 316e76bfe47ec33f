"""How long what is remembered is kept, by tenant and kind, also where the user never comes back."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import redis as redis_py

from agentrt.errors import SettingsError
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.people import Said
from agentrt.runtime.retention import Retention, Retentions
from agentrt.store.keys import QueueKeys, UserKeys
from agentrt.store.sample import take_sample
from tests.memory.inside import Tongue, idle, inside, stated, until
from tests.runtime.conftest import Runtime

DAY_S = 86_400


def _file(folder: Path, **tenants: object) -> str:
    path = folder / "retention.json"
    path.write_bytes(orjson.dumps(tenants))
    return str(path)


async def _kept(runtime: Runtime, user: UserKeys) -> tuple[int, int]:
    """(turns, facts) of a user."""
    people = runtime.surface.people
    return len(await people.turns(user, 0, 100)), len(await people.facts(user, wall_ms()))


def _users() -> list[UserKeys]:
    return [UserKeys("dev", "u1"), UserKeys("other", "u1")]


async def test_each_tenant_and_kind_has_its_time(redis_url: str, tmp_path: Path) -> None:
    """Turns of one tenant go after a day and its facts after a week; another's stay."""
    path = _file(tmp_path, dev={"turns_s": DAY_S, "facts_s": 7 * DAY_S})
    async with inside(redis_url, Tongue(), memory_retention_file=path) as runtime:
        people, compaction = runtime.surface.people, runtime.surface.compaction
        now = wall_ms()
        for user in _users():
            await people.set(user, attribute="home_city", value="Porto", at=now)
            await _remember(runtime, user)
        for days, left in ((0.9, (1, 1)), (1.1, (0, 1)), (7.1, (0, 0))):
            for user in _users():
                await compaction.tidy(user, "a", int(now + days * DAY_S * 1000))
            assert await _kept(runtime, _users()[0]) == left
            assert await _kept(runtime, _users()[1]) == (1, 1)


async def test_what_nothing_was_drawn_from_goes_in_its_time_and_not_before(redis_url: str, tmp_path: Path) -> None:
    """Its extractor is away, say: that is no reason to keep it for ever, nor to drop it because there are many."""
    path, user = _file(tmp_path, dev={"turns_s": DAY_S, "turns_max": 1}), _users()[0]
    async with inside(redis_url, Tongue(), memory_jobs=0, memory_retention_file=path) as runtime:
        now = wall_ms()
        said = [Said(f"m{n}", "user", f"hello {n}", now) for n in range(3)]
        await runtime.surface.people.remember(user, said)
        for days, left in ((0.9, 3), (1.1, 0)):
            await runtime.surface.compaction.tidy(user, "a", int(now + days * DAY_S * 1000))
            assert await _kept(runtime, user) == (left, 0)


async def _remember(runtime: Runtime, user: UserKeys) -> None:
    await runtime.surface.people.remember(user, [Said("m1", "assistant", "hello there", wall_ms())])
    await idle(runtime)


async def test_it_is_kept_to_without_the_user(redis_url: str, tmp_path: Path) -> None:
    """The look at a user is due in time and enters itself anew as long as something is left; an erasure drops it."""
    path = _file(tmp_path, dev={"turns_s": 2 * DAY_S, "facts_s": 30 * DAY_S})
    user = _users()[0]
    later = QueueKeys().later
    with redis_py.Redis.from_url(redis_url) as outside:
        async with inside(redis_url, Tongue(), memory_retention_file=path) as runtime:
            await runtime.surface.people.set(user, attribute="home_city", value="Porto")
            await _remember(runtime, user)
            ((name, due),) = outside.zrange(later, 0, -1, withscores=True)
            assert name == b"compact/dev/u1/a"
            assert abs(due - wall_ms() - 2 * DAY_S * 1000) < 600_000
            # Two days later: what was remembered is two days older, and the look is due.
            turn = orjson.loads(outside.hget(user.memories, "1"))
            turn[6] -= 2 * DAY_S * 1000 + 1
            outside.hset(user.memories, "1", orjson.dumps(turn))
            outside.zadd(later, {name: 1})
            runtime.surface.worker.wake()
            await _until_gone(runtime, user)
            await idle(runtime)
            ((name, due),) = outside.zrange(later, 0, -1, withscores=True)
            assert abs(due - wall_ms() - 30 * DAY_S * 1000) < 600_000  # for the fact
            await runtime.surface.erasure.erase(user)
            assert outside.zrange(later, 0, -1) == []


async def _until_gone(runtime: Runtime, user: UserKeys) -> None:
    async def gone() -> bool:
        return (await _kept(runtime, user))[0] == 0

    await until(gone)


async def test_without_a_bound_nobody_looks(redis_url: str) -> None:
    async with inside(redis_url, Tongue()) as runtime:
        await _remember(runtime, _users()[0])
        with redis_py.Redis.from_url(redis_url) as outside:
            assert outside.exists(QueueKeys().later) == 0


def test_a_user_that_is_busy_is_not_looked_at_all_the_time() -> None:
    """What is due within a twentieth of its time goes together."""
    retention = Retention(turns_s=20 * DAY_S)
    now = 1000 * DAY_S * 1000
    assert retention.look_again([], now) is None
    assert retention.look_again([None, now + 1], now) == now + DAY_S * 1000
    assert retention.look_again([now + 3 * DAY_S * 1000], now) == now + 3 * DAY_S * 1000


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"t": 1}', '{"t": {"turns": 1}}', '{"t": {"turns_s": -1}}', '{"t": {"turns_s": true}}']
)
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "retention.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="AGENTRT_MEMORY_RETENTION_FILE"):
        Retentions.read(str(path), Retention())
    with pytest.raises(SettingsError, match="AGENTRT_MEMORY_RETENTION_FILE"):
        Retentions.read(str(tmp_path / "none"), Retention())


def test_what_a_tenant_does_not_say_is_as_for_all(tmp_path: Path) -> None:
    read = Retentions.read(_file(tmp_path, acme={"turns_s": 7}), Retention(turns_max=3))
    assert read.of("acme") == Retention(turns_s=7, turns_max=3)
    assert read.of("globex") == Retention(turns_max=3)
    assert Retentions.read("", Retention(turns_s=1)).of("acme") == Retention(turns_s=1)


async def test_the_doctor_takes_no_look_that_is_due_later_for_a_leak(redis_url: str) -> None:
    """It tells the operator to delete what nobody owns: that must not be the queue of retention."""
    async with inside(redis_url, Tongue(), memory_turns_ttl_s=DAY_S) as runtime:
        await _remember(runtime, _users()[0])
        with redis_py.Redis.from_url(redis_url) as outside:
            assert outside.zcard(QueueKeys().later) == 1
        assert (await take_sample(runtime.services.users._redis, 5_000)).immortal == []


STAY = "I am in Porto until noon."
ENDED = [stated("stay", "Porto", STAY, valid_until="2020-01-01T00:00:00Z")]


@pytest.mark.parametrize(
    "bounds", [{"ended_facts_s": 60}, {"turns_s": 30 * DAY_S, "ended_facts_s": 60}, {"facts_s": 60}], ids=str
)
@pytest.mark.parametrize("by", ["said", "set"])
async def test_whatever_has_an_end_is_looked_at_when_it_ends(
    redis_url: str, tmp_path: Path, bounds: dict[str, int], by: str
) -> None:
    """Whichever kind has the shortest time, and also of a user who never says anything."""
    tongue = Tongue()
    tongue.answers[STAY] = ENDED
    path, user, later = _file(tmp_path, dev=bounds), _users()[0], QueueKeys().later
    with redis_py.Redis.from_url(redis_url) as outside:
        async with inside(redis_url, tongue, memory_retention_file=path) as runtime:
            if by == "said":
                await runtime.turn("a", STAY, user="u1")
                await idle(runtime)
            else:
                await runtime.surface.people.set(user, attribute="stay", value="Porto", at=1, until=2)
            ((name, due),) = outside.zrange(later, 0, -1, withscores=True)
            assert name == b"compact/dev/u1/a"
            assert due - wall_ms() < 120_000
            if "facts_s" not in bounds or by == "set":
                await runtime.surface.compaction.tidy(user, "a", wall_ms())
                assert (await _kept(runtime, user))[1] == 0


async def test_it_is_kept_to_where_the_agent_is_gone(redis_url: str) -> None:
    """The look was entered for an agent that no pod has any more."""
    user = _users()[0]
    with redis_py.Redis.from_url(redis_url) as outside:
        async with inside(redis_url, Tongue(), memory_turns_ttl_s=60) as runtime:
            await _remember(runtime, user)
            turn = orjson.loads(outside.hget(user.memories, "1"))
            turn[6] -= 100_000
            outside.hset(user.memories, "1", orjson.dumps(turn))
            outside.zadd(QueueKeys().later, {"compact/dev/u1/old_name": 1})
            runtime.surface.worker.wake()
            await _until_gone(runtime, user)
            await idle(runtime)
            assert await runtime.services.jobs.buried() == []
