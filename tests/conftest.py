"""Fixtures: a private Redis for the whole session, flushed for each test, and checked for leaked keys after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import redis

from agentrt.store.sample import OWNED
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

Pod.warm = True

if "PYTEST_XDIST_WORKER" in os.environ:
    # The coverage is that of the tests' own processes. With its tracer a pod takes twice as long to start.
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """The URL of an empty Redis; after the test no key may be left that neither expires nor has an owner."""
    with redis_server.client() as client:
        client.flushall()
        yield redis_server.url
        leaked = leaked_keys(client)
    assert not leaked, f"keys without a TTL: {leaked}"


def leaked_keys(client: redis.Redis) -> list[bytes]:
    """Keys of ours that nobody will ever remove."""
    return [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1 and not key.endswith(OWNED)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`needs(program)`: skip where it is not installed; in CI that is a failure."""
    for marker in item.iter_markers("needs"):
        program = marker.args[0]
        if shutil.which(program) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{program} is missing, and CI must have it")
            pytest.skip(f"{program} is not installed")
