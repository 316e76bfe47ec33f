"""A client that gives up while it waits in line, and whose SDK sends the message again to the other pod."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import httpx2
import pytest

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer


def rows(sink: Path) -> list[str]:
    with sqlite3.connect(sink) as world:
        found = [row[0] for row in world.execute("SELECT args FROM effects ORDER BY id")]
    world.close()
    return found


@pytest.mark.timeout(60)
def test_a_timeout_in_line_and_a_retry_elsewhere_are_one_run(redis_server: RedisServer, tmp_path: Path) -> None:
    """One run, one row: the retry finds the place that its message already has."""
    sink = tmp_path / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink)}
    with Pod(redis_server.url, name="q-a", env=env) as a, Pod(redis_server.url, name="q-b", env=env) as b:
        with httpx2.Client(timeout=30) as client:
            conversation = client.post(f"{a.url}/v1/conversations", json={}).json()["id"]
            first = {"model": "support", "conversation": conversation, "input": "open a slow ticket 1: first"}
            second = {"model": "support", "conversation": conversation, "input": "open a ticket: second"}
            busy = threading.Thread(target=client.post, args=(f"{a.url}/v1/responses",), kwargs={"json": first})
            busy.start()
            # Both say so once the first holds the session: the store knows a live run.
            while not _live(redis_server, conversation):
                pass
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(f"{a.url}/v1/responses", json=second, timeout=0.5)
            answer = client.post(f"{b.url}/v1/responses", json=second, headers={"x-stainless-retry-count": "1"})
            busy.join()
            assert answer.status_code == 200, answer.text
            again = client.get(f"{a.url}/v1/responses/{answer.json()['id']}").json()
            items = client.get(f"{a.url}/v1/conversations/{conversation}/items", params={"order": "asc"}).json()
        assert rows(sink) == ["first", "second"]
        assert again == answer.json()
        kinds = [item.get("role") or item["name"] for item in items["data"]]
        assert kinds == ["user", "create_slow_ticket", "assistant", "user", "create_ticket", "assistant"]


def _live(server: RedisServer, conversation: str) -> bool:
    with server.client() as look:
        return bool(look.hget(f"agentrt:{{dev/{conversation.removeprefix('conv_')}}}", "owner"))
