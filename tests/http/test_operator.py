"""The native routes, and the commands that do the same without a pod: what is in doubt, and resolving it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentrt.runtime.resolution import resolve
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.doubts import Doubts, Place
from agentrt.store.ownership import StoreConfig
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.harness.runs import record
from tests.harness.warm import agentrt
from tests.http.conftest import NO_TLS

SECRET = "a secret of the tests"


def cli(redis_url: str, *args: str) -> subprocess.CompletedProcess[str]:
    return agentrt(*args, env={"AGENTRT_REDIS_URL": redis_url, "AGENTRT_API_KEYS_SECRET": SECRET})


@pytest.fixture(scope="module")
def pod(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with Pod(redis_server.url, name="operated", target="tests.harness.agents:agents") as pod:
        yield pod


@pytest.fixture
def client(pod: Pod) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=pod.url, timeout=30, verify=NO_TLS) as client:
        yield client


def blocked(client: httpx2.Client) -> tuple[str, dict[str, Any]]:
    """A conversation that is held up, and the effect that holds it up."""
    conversation = client.post("/v1/conversations", json={}).json()["id"]
    ask = {"model": "worker", "conversation": conversation}
    first = client.post("/v1/responses", json={**ask, "input": "charge"}).json()
    assert first["status"] == "incomplete"
    assert first["incomplete_details"] == {"reason": "max_output_tokens"}
    assert "unknown" in first["output"][0]["output"]
    refused = client.post("/v1/responses", json={**ask, "input": "read"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "effect_in_doubt")
    assert refused.headers["x-should-retry"] == "false"
    found = [one for one in client.get("/operator/effects").json()["effects"] if one["conversation"] == conversation]
    assert len(found) == 1
    assert found[0]["id"] in error["message"]
    assert found[0]["response"] == first["id"]
    return conversation, found[0]


def ended(client: httpx2.Client, response: str) -> dict[str, Any]:
    """A response, once it has ended."""
    deadline = time.monotonic() + 30
    while True:
        answer = client.get(f"/v1/responses/{response}")
        if answer.status_code == 200 and answer.json()["status"] not in {"queued", "in_progress"}:
            return dict(answer.json())
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def test_resolved_over_http(client: httpx2.Client) -> None:
    """It leaves the list, a run goes on with what is known, and the conversation is free again."""
    conversation, effect = blocked(client)
    path = f"/operator/effects/{effect['id']}"
    assert client.get(path).json() == effect
    told = client.post(f"{path}/resolve", json={"happened": True, "output": {"receipt": 7}}).json()
    assert told["state"] == "resolved"
    assert told["resolution"]["output"] == {"receipt": 7}
    assert ended(client, told["continued_by"])["status"] == "completed"
    again = client.post(f"{path}/resolve", json={"happened": False}).json()
    assert again["resolution"] == told["resolution"]
    assert again["continued_by"] == told["continued_by"]
    assert effect["id"] not in [one["id"] for one in client.get("/operator/effects").json()["effects"]]
    ask = {"model": "worker", "conversation": conversation, "input": "read"}
    assert client.post("/v1/responses", json=ask).json()["status"] == "completed"
    items = client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"}).json()["data"]
    notes = [item["content"][0]["text"] for item in items if item.get("role") == "developer"]
    assert notes == [
        'The outcome of the earlier call charge({}) is known now: it took effect. Its output: {"receipt":7}'
    ]


def test_told_that_what_goes_on_has_not_begun(client: httpx2.Client, redis_server: RedisServer) -> None:
    """Another message came first: 202, and a run that goes on behind it."""
    conversation, effect = blocked(client)

    async def know() -> None:
        redis = Redis(RedisOptions(redis_server.url))
        await redis.start()
        doubts, place = Doubts(redis, StoreConfig("test")), Place.parse(effect["id"])
        doubted = await doubts.read(place) if place is not None else None
        assert doubted is not None
        await resolve(doubts, doubted, False, None, "ann")
        await redis.aclose()

    asyncio.run(know())
    ask = {"model": "slow", "conversation": conversation, "input": "w " * 400, "background": True}
    before = client.post("/v1/responses", json=ask).json()
    told = client.post(f"/operator/effects/{effect['id']}/resolve", json={"happened": False})
    again = client.post(f"/operator/effects/{effect['id']}/resolve", json={"happened": False})
    assert (told.status_code, again.status_code) == (202, 202), told.text + again.text
    client.post(f"/v1/responses/{before['id']}/cancel")
    assert ended(client, told.json()["continued_by"])["error"] is None


def test_what_goes_on_outlives_the_pod_that_answered(redis_server: RedisServer) -> None:
    """Killed behind its answer: the other pod goes on with it."""
    env = {"AGENTRT_LEASE_MS": "1000"}
    target = "tests.harness.agents:agents"
    with Pod(redis_server.url, name="stays", target=target, env=env) as stays, redis_server.client() as outside:
        for _ in range(5):
            with (
                Pod(redis_server.url, name="answers", target=target, env=env) as answers,
                httpx2.Client(base_url=answers.url, timeout=30) as client,
            ):
                _, effect = blocked(client)
                told = client.post(f"/operator/effects/{effect['id']}/resolve", json={"happened": False})
                answers.kill()
            assert told.status_code == 200
            with httpx2.Client(base_url=stays.url, timeout=30) as client:
                assert ended(client, told.json()["continued_by"])["error"] is None
            if record(outside, told.json()["continued_by"])["attempt"] == "2":
                return
    pytest.fail("it had always ended before its pod did")


def test_resolved_by_command(client: httpx2.Client, redis_server: RedisServer) -> None:
    """Without a pod's help; a pod goes on with the conversation."""
    conversation, effect = blocked(client)
    url = redis_server.url
    listed = [json.loads(line) for line in cli(url, "effects", "list").stdout.splitlines()]
    assert effect in listed
    assert json.loads(cli(url, "effects", "show", effect["id"]).stdout) == effect
    told = json.loads(cli(url, "effects", "resolve", effect["id"], "--did-not-happen").stdout)
    assert told["resolution"]["happened"] is False
    assert told["resolution"]["by"].startswith("cli/")
    ask = {"model": "worker", "conversation": conversation, "input": "read"}
    assert client.post("/v1/responses", json=ask).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("resolve", "x"), "either --happened JSON or --did-not-happen"),
        (("resolve", "x", "--happened", "1", "--did-not-happen"), "either --happened JSON or --did-not-happen"),
        (("resolve", "x", "--happened", "not json"), "not JSON"),
        (("resolve", "x", "--happened", "1"), "no effect in doubt has this id"),
        (("show", "a/b/c/d"), "no effect in doubt has this id"),
    ],
)
def test_bad_commands(redis_server: RedisServer, args: tuple[str, ...], said: str) -> None:
    made = cli(redis_server.url, "effects", *args)
    assert made.returncode != 0
    assert said in made.stderr


def test_a_command_without_redis() -> None:
    made = cli("redis://127.0.0.1:1/0", "effects", "list")
    assert made.returncode != 0
    assert "not reachable" in made.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'happened' must be"),
        ({"happened": "yes"}, "'happened' must be"),
        ({"happened": False, "output": 1}, "has no 'output'"),
        ([], "object"),
    ],
)
def test_bad_resolutions(client: httpx2.Client, body: Any, said: str) -> None:
    """RFC 9457, and nothing is resolved."""
    _, effect = blocked(client)
    answer = client.post(f"/operator/effects/{effect['id']}/resolve", json=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]
    assert client.get(f"/operator/effects/{effect['id']}").json()["state"] == "in_doubt"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"job": 1}'])
def test_a_bad_body_for_the_jobs(client: httpx2.Client, content: bytes) -> None:
    """RFC 9457 here too."""
    answer = client.post("/operator/jobs/revive", content=content)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["status"], answer.json()["title"]) == (400, "Bad Request")


@pytest.mark.parametrize("effect", ["x", "a/b/c/d", f"dev/{'0' * 22}/{'0' * 22}/{'0' * 64}"])
def test_unknown_effects(client: httpx2.Client, effect: str) -> None:
    assert client.get(f"/operator/effects/{effect}").status_code == 404
    assert client.post(f"/operator/effects/{effect}/resolve", json={"happened": False}).status_code == 404


def test_only_operators(redis_server: RedisServer, tmp_path: Path) -> None:
    """A tenant's key opens nothing here; an operator's does, for every tenant."""
    path = tmp_path / "keys"
    plain = cli("", "keys", "create", "--tenant", "t1", "--file", str(path)).stdout.strip()
    operator = cli("", "keys", "create", "--tenant", "ops", "--operator", "--file", str(path)).stdout.strip()
    env = {"AGENTRT_API_KEYS_FILE": str(path), "AGENTRT_API_KEYS_SECRET": SECRET}
    with Pod(redis_server.url, name="operated-with-keys", env=env) as pod:
        for key, status in ((plain, 403), (operator, 200), ("nonsense", 401)):
            answer = httpx2.get(
                f"{pod.url}/operator/effects", headers={"authorization": f"Bearer {key}"}, verify=NO_TLS, timeout=30
            )
            assert answer.status_code == status
            if status != 200:
                assert answer.json()["status"] == status
