"""Keys in Redis and their scopes, and what a tenant may use: two pods, one Redis, the command line."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import redis

from agentrt.http.auth import mint
from agentrt.store.access import Access, Quota
from agentrt.store.connection import Redis, RedisOptions
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.warm import agentrt
from tests.http.conftest import NO_TLS
from tests.http.wire import Live, eventually, history, new_conversation, unique

SECRET = "a secret of the tests"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def two(server: RedisServer) -> Iterator[list[Pod]]:
    env = {"AGENTRT_API_KEYS_SECRET": SECRET}
    with (
        Pod(server.url, name="keys-a", target="tests.harness.agents:agents", env=env) as a,
        Pod(server.url, name="keys-b", target="tests.harness.agents:agents", env=env) as b,
    ):
        yield [a, b]


def keys(server: RedisServer, *args: str) -> str:
    """What `agentrt keys` prints."""
    ended = agentrt("keys", *args, env={"AGENTRT_REDIS_URL": server.url, "AGENTRT_API_KEYS_SECRET": SECRET})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


async def made(server: RedisServer, tenant: str, *scopes: str) -> str:
    """A key in Redis, without the command line's start-up time."""
    redis = Redis(RedisOptions(server.url))
    await redis.start()
    try:
        key, identifier, record = mint(tenant, SECRET, scopes or ("run", "read"))
        await Access(redis).set_key(identifier, record)
    finally:
        await redis.aclose()
    return key


async def limit(server: RedisServer, name: str, clients: list[httpx2.AsyncClient], quota: Quota | None) -> None:
    """Set a quota, and wait until both pods have it: a key that was made behind it is known there."""
    redis = Redis(RedisOptions(server.url))
    await redis.start()
    try:
        await Access(redis).set_quota(name, quota)
    finally:
        await redis.aclose()
    key = await made(server, name)
    for one in clients:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=one.base_url, headers=headers, verify=NO_TLS) as newer:
            await answers(newer, 200)


def client(pod: Pod, key: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=pod.url, headers=headers, timeout=30, verify=NO_TLS)


async def answers(one: httpx2.AsyncClient, status: int) -> None:
    """Wait until the key is (un)known there."""

    async def known() -> bool:
        return (await one.get("/v1/models")).status_code == status

    await eventually(known)


@pytest.fixture
async def tenant(server: RedisServer, two: list[Pod]) -> AsyncIterator[tuple[str, list[httpx2.AsyncClient]]]:
    """A tenant of the test's own: its name, and a client of it at each pod."""
    name = unique("t").replace(" ", "-")
    key = await made(server, name)
    async with client(two[0], key) as a, client(two[1], key) as b:
        for one in (a, b):
            await answers(one, 200)
        yield name, [a, b]


async def say(one: httpx2.AsyncClient, text: str = "hello", *, model: str = "echo", **body: Any) -> httpx2.Response:
    headers = body.pop("headers", None)
    return await one.post("/v1/responses", json={"model": model, "input": text, **body}, headers=headers)


async def test_a_key_opens_and_a_revoked_one_does_not_on_every_pod(server: RedisServer, two: list[Pod]) -> None:
    key = await asyncio.to_thread(keys, server, "create", "--tenant", "acme")
    identifier = key.split("_")[1]
    assert any(line.startswith(f"{identifier} acme run,read ") for line in keys(server, "list").splitlines())
    async with client(two[0], key) as a, client(two[1], key) as b:
        for one in (a, b):
            await answers(one, 200)
        assert (await say(a)).status_code == 200
        await asyncio.to_thread(keys, server, "revoke", identifier)
        for one in (a, b):
            await answers(one, 401)
        assert (await say(b)).status_code == 401
    with server.client() as outside:
        assert key.encode() not in str(outside.hgetall("agentrt:{access}:keys")).encode()


def test_a_quota_is_set_shown_and_forgotten(server: RedisServer) -> None:
    said = keys(server, "quota", "--tenant", "acme", "--runs", "7")
    assert said == '{"runs":7,"turns_per_minute":0,"tokens_per_day":0}'
    said = keys(server, "quota", "--tenant", "acme", "--turns-per-minute", "9")
    assert said == '{"runs":7,"turns_per_minute":9,"tokens_per_day":0}', "one limit does not clear another"
    said = keys(server, "quota", "--tenant", "acme", "--runs", "0")
    assert said == '{"runs":0,"turns_per_minute":9,"tokens_per_day":0}'
    assert keys(server, "quota", "--tenant", "acme") == said
    assert keys(server, "quota", "--tenant", "acme", "--default") == "the default"


async def test_a_key_does_what_its_scopes_say(server: RedisServer, two: list[Pod]) -> None:
    allowed = {"run": {"run"}, "read": {"read"}, "operate": {"operate"}, "all": {"run", "read", "operate"}}
    probes = {
        "run": ("POST", "/v1/conversations"),
        "read": ("GET", "/v1/conversations/conv_" + "0" * 22),
        "operate": ("GET", "/operator/effects"),
    }
    for name, scopes in allowed.items():
        key = await made(server, "scoped", *sorted(scopes))
        async with client(two[0], key) as one:

            async def known(one: httpx2.AsyncClient = one) -> bool:
                return (await one.get("/v1/models")).status_code != 401

            await eventually(known)
            for scope, (method, path) in probes.items():
                status = (await one.request(method, path)).status_code
                assert (status == 403) is (scope not in scopes), (name, scope, status)


async def test_turns_a_minute_are_counted_over_all_pods(
    server: RedisServer, tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    name, clients = tenant
    await limit(server, name, clients, Quota(turns_per_minute=4))
    answered = [await say(clients[number % 2]) for number in range(12)]  # a minute may end in between, once
    statuses = [one.status_code for one in answered]
    assert set(statuses) == {200, 429}
    assert 4 <= statuses.count(200) <= 8
    _say_what_is_left(answered)
    refused = next(one for one in answered if one.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["ratelimit-limit"] == "4"
    assert refused.headers["ratelimit-remaining"] == "0"
    assert refused.headers["ratelimit-policy"] == '"turns";q=4;w=60'
    assert 1 <= int(refused.headers["ratelimit-reset"]) <= 60
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    await limit(server, name, clients, None)
    assert (await say(clients[0])).status_code == 200


def _say_what_is_left(answered: list[httpx2.Response]) -> None:
    """Four of a minute, one less with each answer; the last has none left, and one of the next minute three again."""
    fine = [one for one in answered if one.status_code == 200]
    left = [int(one.headers["ratelimit-remaining"]) for one in fine]
    assert left[0] == 3 and all(now in {before - 1, 3} for before, now in itertools.pairwise(left))
    for one, count in zip(fine, left, strict=True):
        assert (one.headers["ratelimit-limit"], one.headers["ratelimit-policy"]) == ("4", '"turns";q=4;w=60')
        assert one.headers["ratelimit"] == f'"turns";r={count};t={one.headers["ratelimit-reset"]}'


async def test_every_limit_is_told_and_the_nearest_first_of_all(
    server: RedisServer, tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    """In plain answers, streams and chats; not where there is no limit."""
    name, clients = tenant
    assert not [header for header in (await say(clients[0])).headers if header.startswith("ratelimit")]
    await limit(server, name, clients, Quota(runs=1000, turns_per_minute=1000, tokens_per_day=100_000))
    one = clients[1]
    streamed = await one.post("/v1/responses", json={"model": "echo", "input": "x", "stream": True})
    chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    for answer in (await say(one), streamed, await one.post("/v1/chat/completions", json=chat)):
        assert answer.headers["ratelimit-policy"] == '"runs";q=1000, "turns";q=1000;w=60, "tokens";q=100000;w=86400'
        told = dict(re.findall(r'"(\w+)";r=(\d+)', answer.headers["ratelimit"]))
        assert int(told["runs"]) >= 990 and 990 <= int(told["turns"]) < 1000 and int(told["tokens"]) > 99_000
        nearest = min(told, key=lambda kind: int(told[kind]) / (100_000 if kind == "tokens" else 1000))
        assert answer.headers["ratelimit-remaining"] == told[nearest]


async def test_tokens_a_day_are_counted_when_they_are_known(
    server: RedisServer, tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    name, (a, b) = tenant
    await limit(server, name, [a, b], Quota(tokens_per_day=5))
    assert (await say(a, "a text of some tokens, more than five of them")).status_code == 200

    async def used_up() -> bool:
        return (await say(b)).status_code == 429

    await eventually(used_up)
    refused = await say(a)
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["ratelimit-policy"].startswith('"tokens";q=5')


async def test_no_more_runs_in_flight_than_allowed_and_none_is_left_behind(
    server: RedisServer, tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    """Two long runs, then many at once on both pods; free again as soon as one has ended."""
    name, (a, b) = tenant
    await limit(server, name, [a, b], Quota(runs=2))
    words = "w " * 400
    async with (
        a.stream("POST", "/v1/responses", json={"model": "slow", "input": words, "stream": True}) as one,
        b.stream("POST", "/v1/responses", json={"model": "slow", "input": words, "stream": True}) as two,
    ):
        live = [(await Live(stream).until("response.created"))["response"]["id"] for stream in (one, two)]
        with server.client() as outside:
            before = set(outside.scan_iter(f"agentrt:{{{name}/*"))
            many = await asyncio.gather(*(say((a, b)[number % 2], model="slow") for number in range(20)))
            assert {answer.status_code for answer in many} == {429}
            assert all(answer.headers["ratelimit-policy"] == '"runs";q=2' for answer in many)
            await eventually(lambda: _same(outside, name, before))  # what was begun of them is taken back
        conversation = await new_conversation(a)
        refused = await say(a, "later", conversation=conversation, headers={"Idempotency-Key": "k"})
        assert refused.status_code == 429
        assert await history(a, conversation) == []
        for identifier in live:
            await a.post(f"/v1/responses/{identifier}/cancel")

    async def room() -> bool:
        again = await say(b, "later", conversation=conversation, headers={"Idempotency-Key": "k"})
        return again.status_code == 200

    await eventually(room)
    assert len(await history(b, conversation)) == 2  # once, whatever was refused before


async def _same(outside: redis.Redis, name: str, before: set[bytes]) -> bool:
    return set(outside.scan_iter(f"agentrt:{{{name}/*")) <= before


async def test_the_same_message_counts_once_and_is_never_refused(
    server: RedisServer, tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    name, (a, b) = tenant
    await limit(server, name, [a, b], Quota(runs=1))
    ask: Any = {"model": "slow", "headers": {"Idempotency-Key": "same"}}
    first = await asyncio.gather(*(say((a, b)[number % 2], "some words to say", **ask) for number in range(6)))
    assert {answer.status_code for answer in first} == {200}
    assert len({answer.json()["id"] for answer in first}) == 1


async def test_a_tenants_quota_is_no_other_tenants(
    server: RedisServer, two: list[Pod], tenant: tuple[str, list[httpx2.AsyncClient]]
) -> None:
    name, clients = tenant
    other = await made(server, f"{name}-other")
    await limit(server, name, clients, Quota(turns_per_minute=1))
    assert 429 in [(await say(clients[0])).status_code for _ in range(3)]
    async with client(two[0], other) as one:
        assert {(await say(one)).status_code for _ in range(5)} == {200}
