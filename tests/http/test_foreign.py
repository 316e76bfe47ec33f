"""Another tenant's ids, crafted ones, and ids that share a prefix, over every route: nothing foreign comes out.

`make fuzz` sends 12,000 requests, `make test` fewer.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson
import pytest

from agentrt.app import ROUTES
from agentrt.http.auth import mint
from agentrt.store.access import Access
from agentrt.store.connection import Redis, RedisOptions
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import NO_TLS
from tests.http.wire import eventually

SECRET = "a secret of the tests"
REQUESTS = int(os.environ.get("AGENTRT_FUZZ", "1200"))
CANARY = "canary-4711"
VICTIM, ATTACKERS = "acme", ("acm", "acme-", "acme_2", "Acme", "quota")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    db = str(tmp_path_factory.mktemp("foreign") / "demo.db")
    env = {"AGENTRT_API_KEYS_SECRET": SECRET, "AGENTRT_DEMO_DB": db, "AGENTRT_WAIT_MS": "50"}
    with Pod(redis_server.url, name="foreign", target="tests.harness.client_agents:agents", env=env) as pod:
        yield pod


@dataclass
class World:
    """What the victim has: the ids by kind, its conversations, and what must stay as it is."""

    ids: dict[str, list[str]] = field(default_factory=lambda: {"conv": [], "resp": [], "item": [], "key": []})
    seen: dict[str, Any] = field(default_factory=dict)


async def _keys(url: str) -> dict[str, str]:
    redis = Redis(RedisOptions(url))
    await redis.start()
    try:
        made = {}
        for tenant in (VICTIM, *ATTACKERS):
            key, identifier, record = mint(tenant, SECRET, ("run", "read"))
            await Access(redis).set_key(identifier, record)
            made[tenant] = key
    finally:
        await redis.aclose()
    return made


async def _fill(client: httpx2.AsyncClient, world: World) -> None:
    """Conversations, chains, background runs, client tools, approvals: all that can be named."""
    for number in range(3):
        body = {"metadata": {"secret": CANARY}, "items": [{"role": "user", "content": CANARY}]}
        conv = (await client.post("/v1/conversations", json=body)).json()["id"]
        world.ids["conv"].append(conv)
        for model, said in (("echo", CANARY), ("worker", "note read"), ("worker", "pay"), ("slow", CANARY)):
            key = f"{CANARY}-key-{number}-{model}-{said}".replace(" ", "-")
            ask = {"model": model, "input": said, "conversation": conv, "metadata": {"secret": CANARY}}
            made = (await client.post("/v1/responses", json=ask, headers={"Idempotency-Key": key})).json()
            world.ids["resp"].append(made["id"])
            world.ids["key"].append(key)
            world.ids["item"] += [item["id"] for item in made["output"]]
    await _look(client, world)


async def _look(client: httpx2.AsyncClient, world: World) -> None:
    for conv in world.ids["conv"]:
        world.seen[conv] = (await client.get(f"/v1/conversations/{conv}")).json()
        listed = await client.get(f"/v1/conversations/{conv}/items", params={"limit": 100})
        world.seen[conv + "/items"] = listed.json()
        world.ids["item"] += [item["id"] for item in listed.json()["data"]]
    for resp in world.ids["resp"]:
        world.seen[resp] = (await client.get(f"/v1/responses/{resp}")).json()


class Forger:
    """Makes requests; each with a twin whose ids nobody has."""

    def __init__(self, seed: int, world: World) -> None:
        self._random = random.Random(seed)
        self._world = world
        self.own: dict[str, list[str]] = {"conv": [], "resp": []}

    def _nobodys(self, identifier: str) -> str:
        """An id of the same shape: every base62 digit behind the prefix is another one."""
        prefix, _, rest = identifier.partition("_")
        shuffled = [self._random.choice(_DIGITS) if char in _DIGITS else char for char in rest[:44]]
        return f"{prefix}_{''.join(shuffled)}{rest[44:]}"

    def _forged(self, kind: str) -> tuple[str, str, bool]:
        """(an id, its twin, whether the two must be answered alike)."""
        pick = self._random.choice
        real = pick(self._world.ids[kind])
        match self._random.randrange(6):
            case 0 | 1 | 2:
                return real, self._nobodys(real), True
            case 3 if kind == "resp" and self.own["resp"]:  # one half of it mine
                mine = pick(self.own["resp"])
                mixed = pick((real[:27] + mine[27:], mine[:27] + real[27:]))
                return mixed, self._nobodys(real), True
            case 4:
                cut = self._random.randrange(1, len(real))
                return real[:cut] or "x", self._nobodys(real)[:cut] or "x", False
        odd = ("*", "{acme/x}", "%00", "%2e%2e", "a%2Fb", real.swapcase(), real + "x", f"{VICTIM}%2F{real[5:27]}")
        return pick(odd), self._nobodys(real), False

    def request(self) -> tuple[list[dict[str, Any]], bool]:
        """The request and its twin, and whether they must be answered alike."""
        route = self._random.choice(_OF_TENANTS)
        method = self._random.choice(sorted(route.methods - {"HEAD"}))
        made: list[dict[str, Any]] = [{"method": method, "params": {}}, {"method": method, "params": {}}]
        alike, path = True, [route.path, route.path]
        for name, kind in (("conversation_id", "conv"), ("response_id", "resp"), ("item_id", "item")):
            if f"{{{name}}}" in route.path:
                *both, same = self._forged(kind)
                alike &= same
                path = [one.replace(f"{{{name}}}", two) for one, two in zip(path, both, strict=True)]
        path = [one.replace("{model}", CANARY) for one in path]
        if method == "GET" and self._random.random() < 0.3:
            query = self._random.choice(({"stream": "true"}, {"limit": "100"}, {"order": "asc"}))
            for one in made:
                one["params"].update(query)
        if method == "POST":
            alike &= self._body(route.path, made)
        for one, where in zip(made, path, strict=True):
            one["url"] = where
        return made, alike

    def _body(self, path: str, made: list[dict[str, Any]]) -> bool:
        bodies: list[dict[str, Any]] = [{}, {}]
        alike = True
        said: Any = "hello"
        if self._random.random() < 0.3:
            asked = self._random.choice([one for one in self._world.ids["item"] if one.startswith("mcpr")])
            said = [{"type": "mcp_approval_response", "approval_request_id": asked, "approve": True}]
        for body in bodies:
            body["model"] = self._random.choice(("echo", "worker")) if body is bodies[0] else bodies[0]["model"]
            body.update(input=said, items=[{"role": "user", "content": "mine"}], metadata={"a": "b"})
            body["messages"] = [{"role": "user", "content": "hello"}]
        if path.startswith("/v1/responses") and self._random.random() < 0.8:
            name, kind = self._random.choice((("conversation", "conv"), ("previous_response_id", "resp")))
            real, twin, alike = self._forged(kind)
            bodies[0][name], bodies[1][name] = real, twin
        if path == "/v1/responses" and self._random.random() < 0.2:
            bodies[0]["stream"] = bodies[1]["stream"] = True
        for one, body in zip(made, bodies, strict=True):
            one["json"] = body
        if self._random.random() < 0.3:
            made[0]["headers"] = {"Idempotency-Key": self._random.choice(self._world.ids["key"])}
            alike = False  # the same key twice, with two bodies
        return alike


_OF_TENANTS: list[Any] = [route for route in ROUTES if route.path.startswith("/v1/")]
_IDS = re.compile(r"\b(conv|resp|msg|mcp|mcpr|fc|rs)_[0-9A-Za-z]+")


async def _send(client: httpx2.AsyncClient, request: dict[str, Any]) -> httpx2.Response:
    answered = await client.request(**request)
    sent = orjson.dumps({**request, "headers": None}).decode() + str(request.get("headers"))
    told = answered.text
    for own in (CANARY, *re.findall(r"[0-9A-Za-z]{22}", sent)):
        if own in sent:
            told = told.replace(own, "")  # what it said itself may be said again
    assert CANARY not in told + str(answered.headers), (request, answered.text)
    assert answered.status_code < 500, (request, answered.text)
    return answered


async def _attack(client: httpx2.AsyncClient, forger: Forger, count: int) -> int:
    compared = 0
    for _ in range(count // 2):
        (real, twin), alike = forger.request()
        one, other = await _send(client, real), await _send(client, twin)
        if alike and real["url"] != twin["url"]:
            assert one.status_code == other.status_code, (real, one.text, twin, other.text)
            assert one.status_code in {404, 405}, (real, one.text)
            assert _IDS.sub("", one.text) == _IDS.sub("", other.text), (real, one.text, other.text)
            assert one.headers.keys() == other.headers.keys()
            compared += 1
        if real["url"] == "/v1/responses" and one.status_code == 200 and not real["json"].get("stream"):
            forger.own["resp"].append(one.json()["id"])
    return compared


async def test_nothing_of_another_tenants_comes_out(pod: Pod, redis_server: RedisServer) -> None:
    keys = await _keys(redis_server.url)
    world, seed = World(), random.randrange(2**32)
    clients = {
        tenant: httpx2.AsyncClient(
            base_url=pod.url, headers={"Authorization": f"Bearer {key}"}, timeout=60, verify=NO_TLS
        )
        for tenant, key in keys.items()
    }
    try:

        async def known() -> bool:
            return (await clients[ATTACKERS[-1]].get("/v1/models")).status_code == 200

        await eventually(known)
        await _fill(clients[VICTIM], world)
        share = REQUESTS // len(ATTACKERS)
        forgers = [Forger(seed + number, world) for number in range(len(ATTACKERS))]
        work = zip(ATTACKERS, forgers, strict=True)
        compared = await asyncio.gather(*(_attack(clients[name], forger, share) for name, forger in work))
        assert sum(compared) > REQUESTS // 10, f"seed {seed}"
        after = World(ids={**world.ids, "item": []})
        await _look(clients[VICTIM], after)
        assert after.seen == world.seen, f"seed {seed}"
    finally:
        for client in clients.values():
            await client.aclose()
