"""`agentrt users`: what is kept of somebody, shown, taken along and erased from the command line, without a pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrt.runtime.erasure import verify
from tests.harness.warm import agentrt
from tests.memory.adapter import SECRET, Adapter, stands

SAID = "I live in Porto and my otter is called Ida."
OTHER = "What we talked of yesterday was a boat."


def command(adapter: Adapter, *args: str, status: int = 0, env: dict[str, str] | None = None) -> Any:
    """`agentrt users ...`: what it prints, as JSON; its error where it fails."""
    env = {"AGENTRT_REDIS_URL": adapter.redis.url, "AGENTRT_RECEIPT_SECRET": SECRET, **(env or {})}
    made = agentrt("users", *args, env=env)
    assert made.returncode == status, (made.stdout, made.stderr)
    return json.loads(made.stdout) if made.stdout else made.stderr


def _talk(adapter: Adapter) -> str:
    """A user with facts, turns and a conversation of three items, one of them deleted; and a neighbour."""
    adapter.extractor.answers[SAID] = [
        {"subject": "user", "attribute": "home_city", "value": "Porto", "card": "one", "quote": "I live in Porto"},
        {"subject": "otter", "attribute": "name", "value": "Ida", "card": "one", "quote": "my otter is called Ida"},
    ]
    for user in ("u1", "u2"):
        conversation = adapter.person("t1", user).conversation
        for text in (SAID, OTHER):
            body = {"model": "memory", "input": text, "user": user, "conversation": conversation}
            adapter.call("POST", "/v1/responses", "t1", json=body)
    adapter.wait_idle()
    return adapter.person("t1", "u1").conversation


def test_show_export_and_erase(fresh: Adapter) -> None:
    conversation = _talk(fresh)
    chat = {"model": "memory", "messages": [{"role": "user", "content": "What a day."}], "user": "u1"}
    fresh.call("POST", "/v1/chat/completions", "t1", json=chat)
    shown = command(fresh, "show", "u1", "--tenant", "t1")
    assert {(one["subject"], one["attribute"], one["value"], one["state"]) for one in shown["facts"]} == {
        ("user", "home_city", "Porto", "active"),
        ("otter", "name", "Ida", "active"),
    }
    assert (shown["turns"], shown["sessions"]) == (4, 2)

    exported = command(fresh, "export", "u1", "--tenant", "t1")
    api = fresh.user("GET", "t1", "u1", "/export")
    assert {**exported, "exported": ""} == {**api, "exported": ""}  # the same, whoever is asked
    assert [one["text"] for one in exported["turns"]] == [SAID, "ok", OTHER, "ok"]
    assert {quote for fact in exported["facts"] for quote in fact["quotes"]} == {
        "I live in Porto",
        "my otter is called Ida",
    }
    (kept,) = exported["conversations"]
    assert kept["conversation"] == conversation
    said = [part["text"] for item in kept["items"] for part in item["content"]]
    assert said == [SAID, "ok", OTHER, "ok"]
    (single,) = exported["single_runs"]
    assert [part["text"] for item in single["items"] for part in item["content"]] == ["What a day.", "ok"]

    receipt = command(fresh, "erase", "u1", "--tenant", "t1", "--verify", "--needle", "What a day.")
    assert receipt["scan"]["keys"] > 0
    assert receipt["scan"]["hits"] == []
    assert receipt["removed"]["facts"] == 2
    assert verify(receipt, SECRET)
    assert not stands(conversation[5:], fresh.dump())
    assert command(fresh, "show", "u1", "--tenant", "t1")["facts"] == []
    assert len(fresh.facts("t1", "u2")) == 2  # the neighbour


def test_a_byte_that_is_left_is_told(fresh: Adapter) -> None:
    """The control of the scan: somebody else says the same, and the command fails."""
    _talk(fresh)
    receipt = command(fresh, "erase", "u1", "--tenant", "t1", "--verify", "--needle", "my otter", status=1)
    assert receipt["scan"]["hits"]
    assert receipt["removed"]["facts"] == 2


def test_without_verify_nothing_is_looked_at(fresh: Adapter) -> None:
    _talk(fresh)
    receipt = command(fresh, "erase", "u1", "--tenant", "t1")
    assert receipt["scan"] == {"keys": 0, "hits": None}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("show", "a/b", "--tenant", "t1"), "not a tenant and user"),
        (("erase", "u1", "--tenant", "t:1"), "not a tenant and user"),
        (("show", "u1"), "--tenant"),
    ],
)
def test_bad_commands(adapter: Adapter, args: tuple[str, ...], said: str) -> None:
    assert said in command(adapter, *args, status=2 if said == "--tenant" else 1)


def test_without_redis(adapter: Adapter) -> None:
    away = {"AGENTRT_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert "not reachable" in command(adapter, "show", "u1", "--tenant", "t1", status=1, env=away)
