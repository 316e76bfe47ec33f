"""What the state Redis keeps, read from its settings: looked at when it begins to serve, told, not enforced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys

__all__ = ["Durability", "judge", "read_durability"]

_KEEPS = {
    "off": "a restart of Redis loses what was written since its last snapshot",
    "no": "a crash of Redis loses nothing, a power cut what the kernel had not written, some 30 s",
    "unknown": "Redis writes a log, and does not say how often it is flushed",
    "everysec": "a crash of Redis loses nothing, a power cut up to 2 s",
    "always": "what was acknowledged survives a crash and a power cut",
}
"""By the setting of its append-only file, the weakest first."""


@dataclass(frozen=True, slots=True)
class Durability:
    """`aof`: `off`, or `appendfsync` as it is set; `keeps`: what that gives; `warnings`: what should be changed."""

    aof: str
    keeps: str
    warnings: Sequence[str]


def judge(settings: Sequence[Mapping[str, str]], wait_replicas: int) -> Durability:
    """What the settings of all masters together are worth: as much as the weakest. Pure.

    Of each: `aof_enabled`, `appendfsync` where it may be known, `maxmemory_policy`, `connected_slaves`.
    """
    kinds = []
    warnings = []
    for one in settings:
        aof = one.get("appendfsync", "unknown") if one.get("aof_enabled") == "1" else "off"
        kinds.append(aof if aof in _KEEPS else "unknown")
        policy = one.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            warnings.append(f"maxmemory-policy is {policy}: Redis may drop conversations; set noeviction")
        replicas = int(one.get("connected_slaves", 0))
        if wait_replicas > replicas:
            warnings.append(f"{wait_replicas} replicas are waited for, and a master has {replicas}")
    weakest = min(kinds, key=list(_KEEPS).index, default="unknown")
    if weakest == "off":
        warnings.append(f"appendonly is off: {_KEEPS['off']}")
    return Durability(weakest, _KEEPS[weakest], tuple(dict.fromkeys(warnings)))


async def read_durability(redis: Redis, wait_replicas: int) -> Durability:
    """Ask every master. Raises `StoreUnavailable`. One that keeps its settings to itself leaves `unknown`."""
    unit = Unit(QueueKeys().slot).command("INFO").command("CONFIG", "GET", "appendfsync")
    return judge([_settings(*replies) for replies in await redis.each(unit)], wait_replicas)


def _settings(info: Any, config: Any) -> dict[str, str]:
    lines = info.decode().splitlines() if isinstance(info, bytes) else []
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    if isinstance(config, list) and len(config) == 2:
        found["appendfsync"] = config[1].decode()
    return found
