"""An erasure leaves nothing: not in Redis, not in its rewritten log, not in the pods; and nothing comes back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis as redis_py

from agentrt.errors import StoreUnavailable
from agentrt.records import SCHEMA_VERSION
from agentrt.runtime import erasure
from agentrt.runtime.erasure import verify
from agentrt.store.connection import Unit
from agentrt.store.keys import QueueKeys, SessionKeys, UserKeys, new_id
from tests.harness.redis_server import RedisServer
from tests.memory.adapter import SECRET, Adapter, stands
from tests.memory.inside import USER, Tongue, idle, inside, stated, until

CANARY = "canary-zq7-ultramarine"


def _leave_traces(adapter: Adapter, user: str) -> None:
    """The canary over every path that what a user says can take."""

    def say(number: int, **more: object) -> str:
        text = f"{CANARY}-{number} is what I say."
        fact = {"subject": "user", "attribute": f"word{number}", "value": f"{CANARY}-{number}", "quote": text}
        adapter.extractor.answers[text] = "}{" if number == 3 else [fact]
        body = {"model": "memory", "input": text, "user": user, **more}
        path = "/v1/responses"
        if more.get("stream"):
            client = adapter._clients[0]
            headers = {"authorization": f"Bearer {adapter._keys['t1']}"}
            assert "response.completed" in client.post(path, json=body, headers=headers).text
            return ""
        return str(adapter.call("POST", path, "t1", json=body)["id"])

    conversation = adapter.call(
        "POST",
        "/v1/conversations",
        "t1",
        json={
            "user": user,
            "metadata": {"note": f"{CANARY}-meta"},
            "items": [{"role": "user", "content": f"{CANARY}-item"}],
        },
    )["id"]
    say(1, conversation=conversation, metadata={"note": f"{CANARY}-meta"})
    first = say(2)
    say(3, stream=True)  # an event log; and an answer of the extractor that nobody understands
    say(4, background=True)
    say(5, previous_response_id=first)
    say(6, previous_response_id=first)  # a fork
    say(8, previous_response_id=first, user=None)  # one that does not say whose it is
    unnamed = adapter.call("POST", "/v1/conversations", "t1", json={"items": [{"role": "user", "content": CANARY}]})[
        "id"
    ]
    say(9, conversation=unnamed)  # begun for nobody in particular
    adapter.call("POST", "/v1/responses/compact", "t1", json={"model": "mirror", "previous_response_id": first})
    say(7, model="mirror")
    for number in range(25):
        say(100 + number, conversation=conversation)  # long enough for a summary
    item = {"id": f"{CANARY}-import", "text": f"{CANARY}-elsewhere", "role": "user"}
    adapter.user("POST", "t1", user, "/turns", json={"items": [item]})
    adapter.user("POST", "t1", user, "/facts", json={"attribute": "colour", "value": f"{CANARY}-blue"})


def _rewritten(adapter: Adapter) -> bytes:
    """The append-only file as a rewrite leaves it."""
    with adapter.redis.client() as client:
        client.bgrewriteaof()
        deadline = time.monotonic() + 30
        while (info := client.info("persistence"))["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return b"".join(path.read_bytes() for path in Path(adapter.redis.dir).rglob("*") if path.is_file())


def test_nothing_is_left_of_a_user(fresh: Adapter) -> None:
    """While extraction is running: every key name, value and stream, and the rewritten log; the neighbour stays."""
    adapter = fresh
    with adapter.redis.client() as client:
        client.config_set("appendonly", "yes")
    adapter.user("POST", "t1", "u2", "/facts", json={"attribute": "colour", "value": "green"})
    _leave_traces(adapter, "u1")
    adapter.wait_idle()
    assert adapter.call("GET", "/operator/jobs", "t1")["buried"]
    adapter.extractor.open.clear()
    body = {"model": "memory", "input": f"{CANARY}-late", "user": "u1"}
    adapter.call("POST", "/v1/responses", "t1", json=body)
    assert adapter.extractor.waiting.acquire(timeout=30)  # an extraction is under way
    assert stands(CANARY, adapter.dump())
    receipt = adapter.user("DELETE", "t1", "u1", json={"needles": [CANARY]})
    adapter.extractor.open.set()
    adapter.wait_idle()
    removed = receipt["removed"]
    assert removed["conversations"] >= 7
    assert removed["runs"] >= 30
    assert removed["facts"] >= 20
    assert removed["turns"] >= 60
    assert receipt["scan"]["keys"] > 0
    assert receipt["scan"]["hits"] == []
    assert verify(receipt, SECRET)
    assert not verify({**receipt, "user": "u2"}, SECRET)
    assert not stands(CANARY, adapter.dump())
    assert CANARY.encode() not in _rewritten(adapter)
    assert [one["value"] for one in adapter.facts("t1", "u2")] == ["green"]
    with adapter.redis.client() as client:
        client.config_set("appendonly", "no")


async def test_a_pod_that_dies_within_a_deletion(redis_server: RedisServer, redis_url: str) -> None:
    """The session's header is gone, its runs are there yet: whoever goes on with the erasure removes them."""
    async with inside(redis_url, Tongue()) as runtime:
        want, _ = await runtime.turn("a", f"{CANARY} is what I say.", user="u1")
        await idle(runtime)
        services, keys = runtime.services, want.session
        redis = services.sessions._redis
        await services.users.erase(USER, new_id(), 60)
        await services.jobs.enter("dev", "erase/dev/u1")
        unit = Unit(keys.tag)
        unit.call(redis.scripts["delete"], (keys.hash, keys.items, keys.runs), known=SCHEMA_VERSION)
        await redis.execute(unit)
        runtime.surface.worker.wake()
        await idle(runtime)
        assert not await services.users.sessions(USER)
    with redis_server.client() as client:
        assert list(client.scan_iter(match=b"agentrt:{%b}*" % keys.tag)) == []


async def test_copies_in_other_pods_go_too(redis_url: str) -> None:
    """Whoever holds a decoded index hears of the erasure, and would not use it if he did not."""
    tongue = Tongue()
    async with inside(redis_url, tongue, pod="one") as one, inside(redis_url, tongue, pod="two") as two:
        await one.turn("a", "The otter is called Ida.", user="u1")
        await idle(one)
        for runtime in (one, two):
            assert (await runtime.surface.people.search(USER, "otter", 5, 0))["turns"]
            assert runtime.services.recollections.held == ["dev/u1"]
        held = two.services.recollections._shelves["dev/u1"]
        await one.surface.erasure.erase(USER)

        async def gone() -> bool:
            return not two.services.recollections.held

        await until(gone)
        two.services.recollections._shelves["dev/u1"] = held  # a notice that got lost
        await two.turn("a", "A new life.", user="u1")
        await idle(two)
        found = (await two.surface.people.search(USER, "otter", 5, 0))["turns"]
        assert found == []


async def test_an_erasure_goes_on_when_its_pod_dies(redis_url: str) -> None:
    """The job that stands in for it finds the sessions that were left."""
    async with inside(redis_url, Tongue()) as runtime:
        want, _ = await runtime.turn("a", f"{CANARY} is what I say.", user="u1")
        await idle(runtime)
        await runtime.services.users.erase(USER, "op", 60)  # and the pod dies here, or a step later:
        await runtime.services.jobs.enter("dev", "erase/dev/u1")
        runtime.surface.worker.wake()
        await idle(runtime)
        assert await runtime.services.conversations.header(want.session) is None
        _, end = await runtime.turn("a", "A new life.", user="u1")
        assert end.status == "completed"


@pytest.mark.parametrize("tombstone", [True, False])
async def test_without_the_tombstone_an_extraction_brings_it_back(redis_url: str, tombstone: bool) -> None:
    """The control of what keeps a late extraction out: the generation."""
    said, tongue = "My word is zebra.", Tongue()
    tongue.answers[said] = [stated("word", "zebra", said)]
    async with inside(redis_url, tongue, memory_jobs=0) as runtime:
        await runtime.turn("a", said, user="u1")
        people, users = runtime.surface.people, runtime.services.users
        gen = (await users.head(USER)).gen
        await runtime.surface.erasure.erase(USER)
        await users.remember(USER, "", [])
        late = {"id": "late", "gen": gen if tombstone else ""}

        async def write() -> None:
            await people._ledger.change(UserKeys("dev", "u1"), _observe(said), gen=late["gen"])

        if tombstone:
            with pytest.raises(Exception, match="erased"):
                await write()
        else:
            await write()
        assert bool(await people.facts(USER, 0)) is not tombstone


def _observe(said: str):  # type: ignore[no-untyped-def]
    from agentrt.memory.facts import Sighting, Statement, observe

    seen = Sighting("m1", 1, 2, 0.9, False, None, said)
    return lambda facts: [observe(facts, Statement("user", "word", "zebra", False, seen))[0]]


async def test_the_receipt_counts_all_that_went(redis_url: str) -> None:
    """No other pod helps while this one is at work: what it removed would stand in no receipt."""
    async with inside(redis_url, Tongue(), pod="one") as one, inside(redis_url, Tongue(), pod="two") as two:
        for _ in range(5):
            await one.turn("a", f"{CANARY} is what I say.", user="u1")
        await idle(one)
        runs, looked = one.services.conversations.runs, list[str]()

        async def slowly(keys: SessionKeys) -> list[str]:
            two.surface.worker.wake()
            await idle(two)  # until there is nothing left that it could help with
            looked.append(keys.id)
            return await runs(keys)

        one.services.conversations.runs = slowly  # type: ignore[method-assign]
        receipt = await one.surface.erasure.erase(USER)
        assert len(looked) == receipt["removed"]["conversations"] == 5


async def test_whoever_stands_in_waits_as_long_as_the_pod_is_at_work(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer: what is entered for a pod that dies is due a while behind its last sign of life."""
    monkeypatch.setattr(erasure, "_STAND_IN_S", 2.0)
    later, job = QueueKeys().later, "erase/dev/u1"
    with redis_py.Redis.from_url(redis_url) as outside:
        async with inside(redis_url, Tongue(), memory_jobs=0) as runtime:
            await runtime.turn("a", f"{CANARY} is what I say.", user="u1")
            runs, seen = runtime.services.conversations.runs, list[float]()

            async def slowly(keys: SessionKeys) -> list[str]:
                seen.append(outside.zscore(later, job))

                async def put_off() -> bool:
                    return bool(outside.zscore(later, job) > seen[0])

                await until(put_off)
                return await runs(keys)

            runtime.services.conversations.runs = slowly  # type: ignore[method-assign]
            assert (await runtime.surface.erasure.erase(USER))["removed"]["conversations"] == 1
            assert seen
            assert outside.zscore(later, job) is None


async def test_an_erasure_that_breaks_off_goes_on_by_itself(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_STAND_IN_S", 0.5)
    async with inside(redis_url, Tongue()) as runtime:
        want, _ = await runtime.turn("a", f"{CANARY} is what I say.", user="u1")
        await idle(runtime)
        runs = runtime.services.conversations.runs

        async def away(keys: SessionKeys) -> list[str]:
            runtime.services.conversations.runs = runs  # type: ignore[method-assign]
            raise StoreUnavailable("gone")

        runtime.services.conversations.runs = away  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await runtime.surface.erasure.erase(USER)

        async def gone() -> bool:
            return await runtime.services.conversations.header(want.session) is None

        await until(gone)
