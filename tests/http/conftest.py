"""Two pods on one Redis, shared by the tests of the HTTP surface: each test makes its own conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer


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
