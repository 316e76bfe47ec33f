"""What must not get in, and what must not get out: heads, bodies, secrets; and pods under a confined Redis user."""

from __future__ import annotations

import asyncio
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import redis

from agentrt.http.protocol import HEAD_BYTES_MAX
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisCluster, RedisServer
from tests.harness.runs import wait_until
from tests.harness.warm import agentrt
from tests.http.conftest import NO_TLS
from tests.http.test_tenancy import client, eventually

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
CANARY = {
    name: f"canary-{name}-4711"
    for name in (
        "redis-password",
        "hmac-secret",
        "openai-key",
        "anthropic-key",
        "prompt",
        "argument",
        "idempotency",
        "metadata",
    )
}


def _recipe() -> list[str]:
    """The rules of docs/operations.md, as an operator would copy them."""
    found = re.search(r"ACL SETUSER agentrt (.+?)\n```", OPERATIONS.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1].replace("PASSWORD", CANARY["redis-password"]).split()


class _Provider(http.server.BaseHTTPRequestHandler):
    """Refuses, and repeats the key and the prompt in its answer, as providers do."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        key = self.headers["authorization"] or self.headers["x-api-key"]
        told = f'{{"error": {{"message": "bad key {key}", "x": {asked}}}}}'.encode()
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def confined() -> Iterator[RedisServer]:
    with RedisServer() as server, server.client() as outside:
        outside.execute_command("ACL", "SETUSER", "agentrt", *_recipe())
        outside.set("other:secret", "x")
        yield server


@pytest.fixture(scope="module")
def env(confined: RedisServer, provider: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "AGENTRT_REDIS_URL": f"redis://agentrt:{CANARY['redis-password']}@127.0.0.1:{confined.port}/0",
        "AGENTRT_API_KEYS_SECRET": CANARY["hmac-secret"],
        "AGENTRT_OPENAI_API_KEY": CANARY["openai-key"],
        "AGENTRT_OPENAI_BASE_URL": provider,
        "AGENTRT_ANTHROPIC_API_KEY": CANARY["anthropic-key"],
        "AGENTRT_ANTHROPIC_BASE_URL": provider.removesuffix("/v1"),
        "AGENTRT_LOG_LEVEL": "debug",
        "AGENTRT_DEMO_DB": str(tmp_path_factory.mktemp("hardening") / "demo.db"),
    }


@pytest.fixture(scope="module")
def pod(env: dict[str, str]) -> Iterator[Pod]:
    url = env["AGENTRT_REDIS_URL"]
    with Pod(url, name="hard", target="tests.harness.client_agents:with_provider", env=env) as pod:
        yield pod


@pytest.fixture(scope="module")
def key(pod: Pod, env: dict[str, str]) -> str:
    """Made by the command line under the confined user, with every scope."""
    made = agentrt("keys", "create", "--tenant", "hard", "--operator", env={**pod._env, **env})
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    headers = {"authorization": f"Bearer {key}"}
    wait_until(lambda: httpx2.get(f"{pod.url}/v1/models", headers=headers).status_code == 200, 10, "knowing the key")
    return key


async def _everything(one: httpx2.AsyncClient) -> list[httpx2.Response]:
    """Turns, tools, streams, cancels, failures; every answer."""
    prompt, argument = CANARY["prompt"], CANARY["argument"]
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    said: list[dict[str, Any]] = [
        {"model": "worker", "input": "note read"},
        {"model": "remote", "input": prompt},
        {"model": "remote", "input": prompt, "stream": True},
        {"model": "remote-claude", "input": prompt},
        {"model": "remote-claude", "input": prompt, "stream": True},
        {"model": "broken", "input": f"{prompt} refuse"},
        {"model": "slow", "input": prompt, "background": True},
        {"model": "caller", "input": argument, "tools": tools},
        {"model": "echo", "input": [{"role": prompt, "content": prompt}]},
        {"model": prompt, "input": prompt},
        {"model": "echo", "input": prompt, "metadata": {"a": CANARY["metadata"]}, "conversation": prompt},
    ]
    headers = {"Idempotency-Key": CANARY["idempotency"]}
    answers = [await one.post("/v1/responses", json=body) for body in said]
    answers.append(await one.post("/v1/responses", json=said[0], headers=headers))
    answers.append(await one.post("/v1/responses", json=said[1], headers=headers))  # another body
    answers.append(await one.post("/v1/responses", content=prompt.encode()))
    live = answers[6].json()["id"]
    answers.append(await one.post(f"/v1/responses/{live}/cancel"))
    answers.append(
        await one.post(
            "/v1/chat/completions", json={"model": "remote", "messages": [{"role": "user", "content": prompt}]}
        )
    )
    conversation = "conv_" + live[5:27]
    session = f"sessions/hard/{conversation}"
    answers += [await one.get(f"/operator/{path}") for path in ("pods", "queue", "effects", session, f"{session}/runs")]
    answers.append(await one.delete(f"/v1/conversations/{conversation}"))
    return answers


async def test_secrets_stay_in_and_a_confined_user_is_enough(pod: Pod, key: str, confined: RedisServer) -> None:
    async with client(pod, key) as one:

        async def known() -> bool:
            return (await one.get("/v1/models")).status_code == 200

        await eventually(known)
        answers = await _everything(one)
        claude = [answer for answer in answers if '"model":"remote-claude"' in answer.text]
        assert len(claude) == 2 and all("401" in answer.text for answer in claude), "the provider was asked"
        errors = [answer for answer in answers if answer.status_code >= 400]
        assert len(errors) >= 6
        metrics = (await one.get("/metrics")).text
        health = (await one.get("/readyz")).text
    log = pod.log.read_text()
    never = [
        CANARY["redis-password"],
        CANARY["hmac-secret"],
        CANARY["openai-key"],
        CANARY["anthropic-key"],
        key,
        key.split("_", 2)[2],
    ]
    for secret in (*never, *CANARY.values()):
        assert secret not in log
        assert secret not in metrics + health
    for secret in never:
        for answer in answers:
            assert secret not in answer.text + str(answer.headers)
    with confined.client() as outside:
        denied = [entry for entry in outside.acl_log() if entry["username"] == "agentrt"]
        assert [entry for entry in denied if not entry["object"].startswith("config")] == []


def test_the_confined_user_is_enough_on_a_cluster() -> None:
    """Pods ask a Cluster who owns its slots, and how it is."""
    with RedisCluster(3) as cluster:
        for node in cluster.nodes:
            with node.client() as outside:
                outside.execute_command("ACL", "SETUSER", "agentrt", *_recipe())
        url = cluster.url.replace("://", f"://agentrt:{CANARY['redis-password']}@")
        with Pod(url, name="hard-cluster") as pod:
            for text in ("note", "read"):
                answer = httpx2.post(f"{pod.url}/v1/responses", json={"model": "echo", "input": text}, timeout=20)
                assert answer.json()["status"] == "completed", answer.text
            wait_until(
                lambda: "agentrt_redis_cluster_ok 1.0" in httpx2.get(f"{pod.url}/metrics").text, 10, "CLUSTER INFO"
            )
        for node in cluster.nodes:
            with node.client() as outside:
                refused = [entry["object"] for entry in outside.acl_log() if entry["username"] == "agentrt"]
            assert all(what.startswith("config") for what in refused), refused


async def test_what_the_confined_user_may_not_do(confined: RedisServer, pod: Pod, key: str) -> None:
    with redis.Redis(port=confined.port, username="agentrt", password=CANARY["redis-password"]) as user:
        for command in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("GET", "other:secret"), ("ACL", "LIST")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.publish("other", "x")
        with pytest.raises(redis.exceptions.ResponseError):
            user.eval("return redis.call('GET', 'other:secret')", 0)
    with confined.client() as outside:
        outside.acl_log_reset()


async def _raw(pod: Pod, sent: bytes) -> bytes:
    """What the pod answers to bytes, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read(4096)
    finally:
        writer.close()


@pytest.mark.parametrize("shape", ["one long header", "many headers", "a long path", "a header without an end"])
async def test_a_head_that_is_too_long_is_refused(pod: Pod, shape: str) -> None:
    size = HEAD_BYTES_MAX + 1000
    sent = {
        "one long header": b"GET /livez HTTP/1.1\r\nhost: x\r\na: %b\r\n\r\n" % (b"x" * size),
        "many headers": b"GET /livez HTTP/1.1\r\nhost: x\r\n%b\r\n" % (b"a: b\r\n" * (size // 6)),
        "a long path": b"GET /livez?%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * size),
        "a header without an end": b"GET /livez HTTP/1.1\r\nhost: x\r\na: %b" % (b"x" * (size + 300_000)),
    }[shape]
    try:
        assert (await _raw(pod, sent)).startswith(b"HTTP/1.1 431 ")
    except ConnectionResetError:  # it had sent more than was read when the connection was closed
        assert len(sent) > 4 * HEAD_BYTES_MAX
    async with httpx2.AsyncClient(base_url=pod.url, verify=NO_TLS) as one:
        assert (await one.get("/livez", headers={"a": "x" * 30_000})).status_code == 200


async def test_a_body_of_100_mb_is_refused_and_not_kept(pod: Pod, key: str) -> None:
    """Row 38: 413, and the pod grows by less than 20 MB."""

    async def body() -> Any:
        yield b'{"model": "echo", "input": "'
        for _ in range(100):
            yield b"x" * 1_000_000

    process = psutil.Process(pod.pid)
    before = process.memory_info().rss
    async with client(pod, key) as one:
        try:
            status = (await one.post("/v1/responses", content=body())).status_code
        except httpx2.HTTPError:  # the connection was closed while the rest of the body was on its way
            status = 413
    assert status == 413
    assert process.memory_info().rss - before < 20_000_000
