"""Runs as Redis has them, looked at from outside: nothing here asks a pod, so nothing here sets one to work."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import redis

from agentrt.store.keys import SessionKeys

TENANT = "dev"


def keys_of(response: str) -> tuple[SessionKeys, str]:
    """The session and the run of a response id."""
    both = response.removeprefix("resp_")
    return SessionKeys(TENANT, both[:22]), both[22:]


def record(client: redis.Redis, response: str) -> dict[str, str]:
    """The run hash."""
    session, run = keys_of(response)
    return {name.decode(): value.decode() for name, value in client.hgetall(session.run(run).hash).items()}


def status(client: redis.Redis, response: str) -> str:
    """The run's status."""
    session, run = keys_of(response)
    found = client.hget(session.run(run).hash, "status")
    return found.decode() if found else "missing"


def wait_until(condition: Callable[[], bool], bound_s: float, what: str = "it") -> float:
    """Seconds until `condition` holds; fails past the bound."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < bound_s, f"{what} did not happen within {bound_s} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def effects(sink: Path) -> list[str]:
    """The idempotency keys of what really happened in the demo's world, in order."""
    with sqlite3.connect(sink) as world:
        found = [row[0] for row in world.execute("SELECT idempotency_key FROM effects ORDER BY id")]
    world.close()
    return found
