"""The clients that npm installs run their session against two pods; in CI only, for it downloads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.__main__ import CLIENTS, run, two_pods
from tests.clients.client import HOMES, NodeClient

NAMES = ("openai-node", "ai-sdk")

pytestmark = [
    pytest.mark.needs("npm"),
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and not os.environ.get("AGENTRT_FULL"), reason="downloads packages of npm"
    ),
]


@pytest.mark.timeout(240)
def test_every_step_of_their_session_passes(tmp_path: Path) -> None:
    clients = [client for client in CLIENTS if isinstance(client, NodeClient) and client.name in NAMES]
    HOMES.mkdir(exist_ok=True)
    for client in clients:
        client.install()
    with two_pods() as pods:
        for client in clients:
            log = tmp_path / f"{client.name}.log"
            run(client, pods, log)
            assert not client.failed, (client.version, client.failed, log.read_text()[-4000:])
            assert "a pod is killed, answers come" in client.passed
