"""Fixtures: the store over the shared Redis, and a plain client that looks at it from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis as redis_py

from agentrt.store.connection import Redis
from tests.harness.redis_server import RedisServer
from tests.store.stage import Store, connected


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connected(redis_url) as redis:
        yield redis


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def outside(redis_server: RedisServer, redis_url: str) -> Iterator[redis_py.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, to be mistreated."""
    with RedisServer("--lua-time-limit", "10") as server:
        yield server
