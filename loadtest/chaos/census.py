"""What a run leaves in Redis: keys and bytes by kind, and when each kind goes."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from typing import Any

import redis

__all__ = ["census"]

_KINDS = (
    (re.compile(rb"\{[^}]*/[0-9A-Za-z]{22}\}$"), "session"),
    (re.compile(rb"\}:items$"), "items of a session"),
    (re.compile(rb":run:[0-9A-Za-z]{22}$"), "run"),
    (re.compile(rb":run:[0-9A-Za-z]{22}:effects$"), "journal of a run"),
    (re.compile(rb":run:[0-9A-Za-z]{22}:events$"), "event log of a run"),
    (re.compile(rb"\{q:\d+\}"), "queue"),
)
_AT_ONCE = 500


def census(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """By kind of key: how many there are, their bytes (MEMORY USAGE), and the longest time to live in seconds; -1 for
    those that somebody deletes."""
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"keys": 0, "bytes": 0, "ttl_s": None})
    names = client.scan_iter("*", 1000)
    while chunk := list(itertools.islice(names, _AT_ONCE)):
        for key in chunk:
            size, ttl_s = client.memory_usage(key), client.ttl(key)
            if size is None:
                continue
            kind = found[_kind(key)]
            kind["keys"] += 1
            kind["bytes"] += size
            kind["ttl_s"] = ttl_s if kind["ttl_s"] is None else max(kind["ttl_s"], ttl_s)
    return dict(sorted(found.items()))


def _kind(key: bytes) -> str:
    return next((name for pattern, name in _KINDS if pattern.search(key)), "other")
