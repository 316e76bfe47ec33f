"""Two pods on one Redis, shared by the tests of the HTTP surface: each test makes its own conversations."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from openai import AsyncOpenAI

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Spares every client the reading of the CA bundle, which takes longer than most tests."""


def strict(pod: Pod) -> AsyncOpenAI:
    """The openai client, which tries once and takes nothing that is not in its schema."""
    http = httpx2.AsyncClient(verify=NO_TLS)
    options: Any = {"max_retries": 0, "_strict_response_validation": True, "http_client": http}
    return AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="x", **options)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of their own: the two pods live on while other folders' tests look at what is in theirs."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def pods(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pod]]:
    """Two pods with the demo agents. The sink is at `AGENTRT_DEMO_DB`, see `sink`."""
    sink = tmp_path_factory.mktemp("demo") / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink), "AGENTRT_BODY_BYTES_MAX": str(1024 * 1024)}
    with Pod(redis_server.url, name="pod-a", env=env) as a, Pod(redis_server.url, name="pod-b", env=env) as b:
        yield [a, b]


@pytest.fixture
def sink(pods: list[Pod]) -> Path:
    """The SQLite file in which the demo's effects leave their rows."""
    return Path(pods[0]._env["AGENTRT_DEMO_DB"])


@pytest.fixture
async def a(pods: list[Pod]) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client of pod A."""
    async with httpx2.AsyncClient(base_url=pods[0].url, timeout=30, verify=NO_TLS) as client:
        yield client


@pytest.fixture
async def b(pods: list[Pod]) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client of pod B."""
    async with httpx2.AsyncClient(base_url=pods[1].url, timeout=30, verify=NO_TLS) as client:
        yield client


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The pods' Redis, for looking from outside."""
    with redis_server.client() as client:
        yield client
