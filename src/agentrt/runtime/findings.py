"""What is judged of a Redis by what it tells of itself; pure. For `agentrt doctor` and the look at a pod's start."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrt.store.vitals import readings

__all__ = ["Finding", "Verdict", "judge_configuration", "judge_failover", "judge_vitals", "worst"]

_OLDEST = (6, 2)


class Verdict(enum.StrEnum):
    """`fail`: state can get lost, or nothing works. `warn`: it will hurt some day. `skip`: could not be looked at."""

    PASS = "pass"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `step` is 1 to 6; `do` is what to do about it, `risk` what leaving it costs."""

    step: int
    check: str
    verdict: Verdict
    found: str
    do: str = ""
    risk: str = ""


def worst(findings: Sequence[Finding]) -> Verdict:
    """`fail`, `warn` or `pass`."""
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.WARN) if verdict in verdicts), Verdict.PASS)


def judge_configuration(info: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    """What must hold before the first turn: version, memory, eviction, persistence. `config` may lack any of it."""
    return [_version(info), _maxmemory(info), _policy(info), _persistence(info, config)]


def _version(info: Mapping[str, str]) -> Finding:
    told = info.get("redis_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", told)[:2])
    name = (
        f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {told or 'of an unknown version'}"
    )
    if numbers >= _OLDEST:
        return Finding(1, "version", Verdict.PASS, name)
    return Finding(
        1, "version", Verdict.FAIL, name, "Upgrade to Redis 6.2 or newer, or Valkey.", "Scripts use commands it lacks."
    )


def _maxmemory(info: Mapping[str, str]) -> Finding:
    bound = int(info.get("maxmemory", "0"))
    if bound:
        return Finding(6, "maxmemory", Verdict.PASS, f"{bound / 2**20:.0f} MiB")
    return Finding(
        6,
        "maxmemory",
        Verdict.WARN,
        "not set",
        "redis-cli CONFIG SET maxmemory 4gb; redis-cli CONFIG REWRITE (three quarters of what the server may use)",
        "Redis grows until the kernel kills it, instead of refusing new turns.",
    )


def _policy(info: Mapping[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding(6, "maxmemory-policy", Verdict.PASS, policy)
    return Finding(
        6,
        "maxmemory-policy",
        Verdict.FAIL,
        policy,
        "redis-cli CONFIG SET maxmemory-policy noeviction; redis-cli CONFIG REWRITE",
        "When memory is short Redis throws conversations, journals and locks away; effects may be done twice.",
    )


def _persistence(info: Mapping[str, str], config: Mapping[str, str]) -> Finding:
    do = "redis-cli CONFIG SET appendonly yes; redis-cli CONFIG REWRITE"
    if info.get("aof_enabled") == "1":
        if config.get("appendfsync") == "no":
            do = "redis-cli CONFIG SET appendfsync everysec; redis-cli CONFIG REWRITE"
            return Finding(6, "persistence", Verdict.WARN, "AOF, appendfsync no", do, "A crash may lose half a minute.")
        return Finding(6, "persistence", Verdict.PASS, f"AOF, appendfsync {config.get('appendfsync', 'unknown')}")
    if config.get("save"):
        found, risk = f"snapshots only ({config['save']})", "A crash loses what came after the last snapshot."
        return Finding(6, "persistence", Verdict.WARN, found, do, risk)
    if "save" in config:
        risk = "A restart of Redis loses every conversation and every journal."
        return Finding(6, "persistence", Verdict.FAIL, "none: neither AOF nor snapshots", do, risk)
    return Finding(6, "persistence", Verdict.WARN, "no AOF; CONFIG is refused", do, "A restart of Redis may lose all.")


def judge_failover(info: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    """Whether this is a master, and who would take over."""
    role = info.get("role", "unknown")
    if role != "master":
        do = "Name the master in AGENTRT_REDIS_URL, or redis+sentinel://, which finds it."
        found = f"a replica of {info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return [Finding(5, "role", Verdict.FAIL, found, do, "Every write is refused: every request gets 503.")]
    findings = [Finding(5, "role", Verdict.PASS, "master")]
    replicas = int(info.get("connected_slaves", "0"))
    if info.get("cluster_enabled") == "1":
        return [*findings, _cluster(info)]
    if not replicas:
        do = "Add a replica and Sentinels, or use a managed Redis that fails over."
        risk = "While this server is away nothing is served; with its disk goes everything."
        return [*findings, Finding(5, "replicas", Verdict.WARN, "none", do, risk)]
    findings.append(Finding(5, "replicas", Verdict.PASS, str(replicas)))
    least = config.get("min-replicas-to-write", "")
    if least in {"", "0"}:
        do = "redis-cli CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 2; redis-cli CONFIG REWRITE"
        risk = "A master that is cut off goes on taking turns, which the failover then throws away."
        findings.append(Finding(5, "min-replicas-to-write", Verdict.WARN, least or "unknown", do, risk))
    else:
        findings.append(Finding(5, "min-replicas-to-write", Verdict.PASS, least))
    return findings


def _cluster(info: Mapping[str, str]) -> Finding:
    state = info.get("cluster_state", "unknown")
    if state == "ok":
        return Finding(5, "cluster", Verdict.PASS, state)
    do = "redis-cli CLUSTER NODES; bring the missing masters back, or fail over to their replicas."
    return Finding(5, "cluster", Verdict.FAIL, state, do, "Sessions on the missing slots get 503.")


_STATUS = {
    "aof_write_ok": "the last write of the AOF failed",
    "aof_rewrite_ok": "the last rewrite of the AOF failed",
    "rdb_save_ok": "the last snapshot failed",
}


def judge_vitals(info: Mapping[str, str]) -> list[Finding]:
    """The thresholds of the alarms, now."""
    read = readings(info)
    evicted = int(read.get("evicted_keys", 0))
    do = "Set maxmemory-policy noeviction and more maxmemory; compare `agentrt effects list` with the other systems."
    risk = "State is lost: journals too, so effects may have been done twice."
    findings = [
        Finding(6, "evicted keys", Verdict.FAIL, str(evicted), do, risk)
        if evicted
        else Finding(6, "evicted keys", Verdict.PASS, "0")
    ]
    if read.get("memory_max_bytes"):
        used = read["memory_used_bytes"] / read["memory_max_bytes"]
        do = "Raise maxmemory, or lower AGENTRT_SESSION_TTL_S and AGENTRT_EVENTS_TTL_S."
        findings.append(_bounded("memory", used, (0.8, 0.9), do, "At 100 % new turns are refused with 503."))
    if read.get("clients_max"):
        used = read["clients"] / read["clients_max"]
        do = "redis-cli CONFIG SET maxclients 20000; redis-cli CLIENT LIST says who they are."
        findings.append(_bounded("connections", used, (0.8, 0.9), do, "More pods cannot connect."))
    if "replica_lag_seconds" in read:
        lag = read["replica_lag_seconds"]
        verdict = Verdict.FAIL if lag > 10 else Verdict.WARN if lag > 2 else Verdict.PASS
        do = "" if verdict is Verdict.PASS else "Look at the replica's disk and network."
        risk = "" if verdict is Verdict.PASS else "A failover now loses that much."
        findings.append(Finding(6, "replication lag", verdict, f"{lag:.0f} s", do, risk))
    broken = [text for name, text in _STATUS.items() if read.get(name) == 0.0]
    do = "Look at Redis' log and its disk (df -h); do not restart Redis before it is cured."
    risk = "A restart loses turns; Redis may refuse writes."
    findings.append(
        Finding(6, "last save", Verdict.FAIL, "; ".join(broken), do, risk)
        if broken
        else Finding(6, "last save", Verdict.PASS, "went well")
    )
    return findings


def _bounded(check: str, used: float, bounds: tuple[float, float], do: str, risk: str) -> Finding:
    verdict = Verdict.FAIL if used > bounds[1] else Verdict.WARN if used > bounds[0] else Verdict.PASS
    found = f"{used:.1%} of what there may be"
    return Finding(6, check, verdict, found) if verdict is Verdict.PASS else Finding(6, check, verdict, found, do, risk)
