"""Tenants with Redis users of their own: all works as before, and a defect in building keys is refused by Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from agentrt.errors import SettingsError, StoreUnavailable
from agentrt.http.auth import mint
from agentrt.settings import Settings
from agentrt.store.access import Access
from agentrt.store.connection import Redis, RedisOptions, Unit
from agentrt.store.keys import SessionKeys, new_id
from agentrt.store.tenants import TenantUsers
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.warm import agentrt
from tests.http.conftest import NO_TLS
from tests.http.wire import Live, eventually

SECRET = "a secret of the tests"
USERS = TenantUsers("agentrt.{tenant}", "another secret", connections_max=2)
TENANTS = ("acme", "evil", "third")
RUNTIME = (
    "ACL SETUSER agentrt on >shared resetkeys ~agentrt:{q:* ~agentrt:{access}:* ~agentrt:{pods}:* resetchannels "
    "&agentrt:* -@all +@read +@write +@connection +@pubsub -@dangerous +eval +evalsha +script|load +time +wait +info "
    "+client|setname"
)
MODE = {
    "AGENTRT_REDIS_TENANT_USER": USERS.template,
    "AGENTRT_REDIS_TENANT_SECRET": USERS.secret,
    "AGENTRT_REDIS_TENANTS_MAX": str(USERS.connections_max),
}


def rule(tenant: str) -> str:
    """What the command line prints."""
    told = agentrt("keys", "acl", "--tenant", tenant, env=MODE)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server, server.client() as outside:
        for line in (RUNTIME, rule("acme"), *(USERS.rule(tenant) for tenant in TENANTS[1:])):
            outside.execute_command(*line.split(" "))
        yield server


@pytest.fixture(scope="module")
def tokens(server: RedisServer) -> dict[str, str]:
    async def make() -> dict[str, str]:
        made, store = {}, Redis(RedisOptions(server.url))
        await store.start()
        for tenant in TENANTS:
            made[tenant], identifier, record = mint(tenant, SECRET, ("run", "read", "operate"))
            await Access(store).set_key(identifier, record)
        await store.aclose()
        return made

    return asyncio.run(make())


@pytest.fixture(autouse=True)
def nothing_denied_yet(server: RedisServer) -> None:
    """Tests that are refused on purpose may come first: their order is drawn."""
    denied(server)


def pod_of(server: RedisServer, folder: Path, name: str, env: dict[str, str], *entry: str) -> Pod:
    more: dict[str, Any] = {"entry": entry} if entry else {}
    whole = {"AGENTRT_API_KEYS_SECRET": SECRET, "AGENTRT_DEMO_DB": str(folder / "demo.db"), **env}
    url = f"redis://agentrt:shared@127.0.0.1:{server.port}/0" if "AGENTRT_REDIS_TENANT_USER" in env else server.url
    return Pod(url, name=name, target="tests.harness.agents:agents", env=whole, **more)


def client(pod: Pod, key: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=pod.url, headers=headers, timeout=30, verify=NO_TLS)


def denied(server: RedisServer) -> list[Any]:
    """What Redis refused, but for the question what it keeps."""
    with server.client() as outside:
        found = [entry for entry in outside.acl_log() if not entry["object"].startswith("config")]
        outside.acl_log_reset()
    return found


async def _session(one: httpx2.AsyncClient, tenant: str) -> str:
    """Turns, tools, a stream, a cancel, a chat, memory, its erasure; the conversation."""
    conversation = str((await one.post("/v1/conversations", json={})).json()["id"])
    ask = {"model": "worker", "input": "note book read", "conversation": conversation, "user": "u1"}
    made = await one.post("/v1/responses", json=ask)
    assert (made.status_code, made.json()["status"]) == (200, "completed"), made.text
    async with one.stream("POST", "/v1/responses", json={**ask, "model": "echo", "stream": True}) as stream:
        await Live(stream).until("response.completed")
    live = (await one.post("/v1/responses", json={"model": "slow", "input": "w " * 100, "background": True})).json()
    assert (await one.post(f"/v1/responses/{live['id']}/cancel")).status_code == 200
    chat = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    assert (await one.post("/v1/chat/completions", json=chat)).status_code == 200
    charged = await one.post("/v1/responses", json={"model": "worker", "input": "charge"})
    assert charged.json()["status"] == "incomplete"
    assert (await one.get("/operator/effects")).status_code == 200
    assert (await one.get(f"/operator/sessions/{tenant}/{conversation}/runs")).status_code == 200
    turns = {"items": [{"id": "msg_1", "text": "I live in Lisbon."}]}
    assert (await one.post("/operator/users/u1/turns", json=turns)).status_code == 200
    receipt = await one.request("DELETE", "/operator/users/u1", json={"scan": True})
    assert receipt.status_code == 200, receipt.text
    kept = (await one.post("/v1/conversations", json={"items": [{"role": "user", "content": f"of {tenant}"}]})).json()
    return str(kept["id"])


async def test_all_is_served_and_nothing_is_refused(
    server: RedisServer, tokens: dict[str, str], tmp_path: Path
) -> None:
    """Three tenants, connections for two at once: the one used least recently makes room."""
    with pod_of(server, tmp_path, "apart", MODE) as pod:
        for tenant in (*TENANTS, TENANTS[0]):
            async with client(pod, tokens[tenant]) as one:
                await eventually(lambda one=one: _known(one))
                await _session(one, tenant)
        with server.client() as outside:
            users = {entry["user"] for entry in outside.client_list()}
        assert "agentrt" in users and len({user for user in users if user.startswith("agentrt.")}) <= 2
        assert denied(server) == []


async def _known(one: httpx2.AsyncClient) -> bool:
    return (await one.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("mode", [MODE, {}], ids=["refused", "without the mode it leaks"])
async def test_a_defect_in_building_keys(
    server: RedisServer, tokens: dict[str, str], tmp_path: Path, mode: dict[str, str]
) -> None:
    made = {}
    with pod_of(server, tmp_path, "sound", mode) as pod:
        for tenant in ("acme", "evil"):
            async with client(pod, tokens[tenant]) as one:
                await eventually(lambda one=one: _known(one))
                body = {"items": [{"role": "user", "content": f"{tenant}'s own"}]}
                made[tenant] = (await one.post("/v1/conversations", json=body)).json()["id"]
    broken = {**mode, "FOREIGN_ITEMS": f"agentrt:{{acme/{made['acme'].removeprefix('conv_')}}}:items"}
    assert denied(server) == []
    with pod_of(server, tmp_path, "broken", broken, "-m", "tests.negative.pod_with_foreign_items") as pod:
        async with client(pod, tokens["evil"]) as one:
            await eventually(lambda: _known(one))
            seen = await one.get(f"/v1/conversations/{made['evil']}/items")
    refused = denied(server)
    if mode:
        assert (seen.status_code, seen.json()["error"]["code"]) == (503, "store_unavailable")
        assert "own" not in seen.text
        assert {entry["username"] for entry in refused} == {"agentrt.evil"}
    else:
        assert "acme's own" in seen.text
        assert refused == []


async def test_a_tenant_without_a_user_is_not_served_by_another(server: RedisServer) -> None:
    url = f"redis://agentrt:shared@127.0.0.1:{server.port}/0"
    store = Redis(RedisOptions(url, resend_budget_s=0.3), USERS)
    await store.start()
    try:
        for tenant in ("nobody", "acme"):
            keys = SessionKeys(tenant, new_id())
            reading = store.execute(Unit(keys.tag).command("HGETALL", keys.hash))
            if tenant == "acme":
                assert await reading == [[]]
            else:
                with pytest.raises(StoreUnavailable):
                    await reading
        with pytest.raises(StoreUnavailable):  # not even under the runtime's own user
            await store.execute(Unit(bytes(keys.tag)).command("HGETALL", keys.hash))
    finally:
        await store.aclose()


def test_what_a_tenants_user_may_not_do(server: RedisServer) -> None:
    user, password = USERS.credentials("acme")
    with redis.Redis(port=server.port, username=user, password=password) as one:
        one.set("agentrt:{acme/x}", "1")
        one.delete("agentrt:{acme/x}")
        refused = [("GET", f"agentrt:{{{other}/x}}") for other in ("evil", "acm", "acme2", "q:0")]
        for command in [*refused, ("GET", "agentrt:{access}:keys"), ("SCAN", "0"), ("RANDOMKEY",), ("FLUSHALL",)]:
            with pytest.raises(redis.exceptions.NoPermissionError):
                one.execute_command(*command)


@pytest.mark.parametrize(
    "wrong",
    [
        {"AGENTRT_REDIS_TENANT_USER": "fixed", "AGENTRT_REDIS_TENANT_SECRET": "x"},
        {"AGENTRT_REDIS_TENANT_USER": "a-{tenant}"},
    ],
)
def test_settings_that_name_no_users(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        Settings.from_env(wrong)


async def test_a_tenants_connection_is_no_new_server(server: RedisServer) -> None:
    """Or the pod would give up its subscription for it, and hear nothing meanwhile."""
    redis, connected = Redis(RedisOptions(server.url), USERS), list[str]()
    redis.on_reconnect = lambda: connected.append("anew")
    await redis.start()
    try:
        assert connected == ["anew"]
        for tenant in TENANTS:
            keys = SessionKeys(tenant, new_id())
            assert await redis.execute(Unit(keys.tag).command("EXISTS", keys.hash)) == [0]
        assert connected == ["anew"]
    finally:
        await redis.aclose()
