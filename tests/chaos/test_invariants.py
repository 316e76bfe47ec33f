"""What the soak looks for in the end is found where it is: a run made up by hand, and spoiled."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from loadtest.chaos.agents import _SCHEMA
from loadtest.chaos.invariants import Inspection

from agentrt.records import Item
from agentrt.store.journal import Outcome, Planned
from agentrt.store.keys import SessionKeys, new_id
from tests.harness.redis_server import RedisServer
from tests.harness.runs import TENANT

NOW = time.time()
DURING = [(NOW - 5, NOW + 5)]
BEFORE = [(NOW - 900, NOW - 800)]

Call = tuple[str, str, str, int]
"""Key, tool, state of the outcome (`open`: none), and how often it happened."""


def inspected(
    server: RedisServer, folder: Path, text: str, calls: Sequence[Call], fail_overs: Sequence[tuple[float, float]] = ()
) -> list[str]:
    """What is found of a completed run that was asked for `text`, and called these."""
    keys, now_ms = SessionKeys(TENANT, new_id()), int(NOW * 1000)
    run = keys.run(new_id())
    effects = {"wire": "at_most_once", "book": "at_most_once", "note": "idempotent", "read": "read_only"}
    with server.client() as client, closing(sqlite3.connect(folder / "world.db")) as world:
        client.hset(keys.hash, mapping={"owner": "", "run": "", "waiters": "", "seq": 1})
        said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        client.rpush(keys.items, Item.of(said).encode())
        ended = {"status": "completed", "first": 0, "n_items": 1, "created": now_ms, "ended": now_ms}
        client.hset(run.hash, mapping=ended)
        world.executescript(_SCHEMA)
        for number, (key, tool, state, times) in enumerate(calls):
            planned = Planned(key, number, 0, tool, effects[tool], "{}", "c", "i", number, 1, "pod")
            client.hset(run.effects, key, orjson.dumps(planned))
            if state != "open":
                outcome = Outcome(state, "done", None, now_ms, "pod", 1)
                client.hset(run.effects, f"{key}!", orjson.dumps(outcome))
            for _ in range(times):
                world.execute("INSERT INTO effects (tool, idempotency_key) VALUES (?, ?)", (tool, key))
        world.commit()
        for name in (keys.hash, keys.items, run.hash, run.effects):
            client.expire(name, 60)
        inspection = Inspection(client, folder / "world.db", fail_overs)
        inspection.all([])
    return inspection.wrong


WHOLE: list[Call] = [("k1", "wire", "recorded", 1), ("k2", "note", "recorded", 1), ("k3", "read", "recorded", 0)]


def test_a_run_as_it_should_be(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    assert inspected(redis_server, tmp_path, "talker: wire note read", WHOLE) == []


@pytest.mark.parametrize(
    ("text", "calls", "wrong"),
    [
        ("a: wire", [("k1", "wire", "recorded", 1), ("k2", "wire", "recorded", 1)], "was asked for {'wire': 1}"),
        ("a: wire note", [("k1", "wire", "recorded", 1)], "is completed, called {'wire': 1}"),
        ("a: wire", [("k1", "wire", "recorded", 2)], "is recorded, and happened 2 times"),
        ("a: wire", [("k1", "wire", "recorded", 0)], "is recorded, and happened 0 times"),
        ("a: wire", [("k1", "wire", "failed", 1)], "is failed, and happened 1 times"),
        ("a: wire", [("k1", "wire", "open", 1)], "is open, and happened 1 times"),
        ("a: wire", [("k1", "wire", "in_doubt", 1)], "is in doubt, and not listed"),
        ("a: note", [("k1", "note", "in_doubt", 1)], "is idempotent, and in doubt"),
        ("a: book", [("k1", "book", "in_doubt", 1)], "book of"),
    ],
)
def test_what_is_wrong_with_it_is_found(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, text: str, calls: list[Call], wrong: str
) -> None:
    """Under two keys, too few, too often, never, all the same, unknown to all, untold; also long after a fail-over."""
    assert redis_url
    assert any(wrong in one for one in inspected(redis_server, tmp_path, text, calls, BEFORE))


def test_what_a_fail_over_explains_is_counted_only_then(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """An outcome that its living owner remembered; never a second effect."""
    assert redis_url
    assert inspected(redis_server, tmp_path, "a: wire", [("k1", "wire", "open", 1)], DURING) == []
    twice = inspected(redis_server, tmp_path, "a: wire", [("k2", "wire", "open", 2)], DURING)
    assert any("happened 2 times" in one for one in twice)
