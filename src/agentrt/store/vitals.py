"""The vital signs of the state Redis, as its INFO tells them. On a Cluster: of the node that has the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys

__all__ = ["Vitals", "parse_info", "readings"]

_LAG = re.compile(r"lag=(\d+)")

_NUMBERS = {
    "memory_used_bytes": ("used_memory",),
    "memory_max_bytes": ("maxmemory",),
    "clients": ("connected_clients",),
    "clients_max": ("maxclients",),
    "blocked_clients": ("blocked_clients",),
    "replicas": ("connected_slaves",),
    "aof_enabled": ("aof_enabled",),
    "evicted_keys": ("evicted_keys",),
    "rejected_connections": ("rejected_connections",),
    "aof_delayed_fsync": ("aof_delayed_fsync",),
    "cpu_seconds": ("used_cpu_sys_main_thread", "used_cpu_user_main_thread"),
    "acl_denied": (
        "acl_access_denied_auth",
        "acl_access_denied_cmd",
        "acl_access_denied_key",
        "acl_access_denied_channel",
    ),
}
"""Metric → the fields of INFO that make it up. What this server does not tell is left out."""
_STATES = {
    "master": ("role", "master"),
    "noeviction": ("maxmemory_policy", "noeviction"),
    "aof_write_ok": ("aof_last_write_status", "ok"),
    "aof_rewrite_ok": ("aof_last_bgrewrite_status", "ok"),
    "rdb_save_ok": ("rdb_last_bgsave_status", "ok"),
}
"""Metric → a field of INFO and the word that makes it 1."""


class Vitals:
    """Reads them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._slot = QueueKeys().slot

    async def info(self) -> dict[str, str]:
        """All that INFO says, and CLUSTER INFO on a Cluster. Raises `StoreUnavailable`, `ScriptError` when refused."""
        raw, (seconds, _) = await self._redis.execute(Unit(self._slot).command("INFO").command("TIME"))
        info = parse_info(raw) | {"time": seconds.decode()}
        if info.get("cluster_enabled") == "1":
            (more,) = await self._redis.execute(Unit(self._slot).command("CLUSTER", "INFO"))
            info |= parse_info(more)
        return info


def parse_info(raw: bytes) -> dict[str, str]:
    """The fields of an INFO reply."""
    pairs = (line.split(":", 1) for line in raw.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def readings(info: Mapping[str, str]) -> dict[str, float]:
    """What `telemetry.RedisVitals` exports, by its names: bytes, seconds, counts; states as 1 or 0."""
    read = {"up": 1.0}
    for name, parts in _NUMBERS.items():
        if parts[0] in info:
            read[name] = sum(float(info.get(part, "0")) for part in parts)
    for name, (part, word) in _STATES.items():
        if part in info:
            read[name] = float(info[part] == word)
    if "run_id" in info:
        read["run_number"] = float(int(info["run_id"][:8], 16))
    lags = [int(lag) for name, value in info.items() if name.startswith("slave") for lag in _LAG.findall(value)]
    if lags:
        read["replica_lag_seconds"] = float(max(lags))
    if "rdb_last_save_time" in info and "time" in info:
        read["rdb_age_seconds"] = max(0.0, float(info["time"]) - float(info["rdb_last_save_time"]))
    if "cluster_state" in info:
        read["cluster_ok"] = float(info["cluster_state"] == "ok")
        read["cluster_slots_bad"] = float(info["cluster_slots_fail"]) + float(info["cluster_slots_pfail"])
    return read
