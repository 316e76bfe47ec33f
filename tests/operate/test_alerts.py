"""The alerts: each fires on its cause and stays silent just beside it; what they read exists; their runbooks too."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from agentrt.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "agentrt" / "files" / "alerts.yaml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}

Series = dict[str, str]

HEALTHY: Series = {
    "agentrt_ready": "1x1600",
    "agentrt_notices_age_seconds": "2x1600",
    "agentrt_effects_in_doubt": "0x1600",
    "agentrt_effects_in_doubt_oldest_seconds": "0x1600",
    "agentrt_queue_oldest_seconds": "1x1600",
    "agentrt_dead_letters": "0x1600",
    "agentrt_memory_jobs_buried": "0x1600",
    "agentrt_memory_jobs_late": "20x1600",
    "agentrt_identity_mismatches_total": "0x1600",
    "agentrt_ownership_lost_total": "0x1600",
    "agentrt_locks_lost_total": "0x1600",
    'agentrt_turns_total{status="completed"}': "0+1000x1600",
    'agentrt_turns_total{status="failed"}': "0+1x1600",
    'agentrt_first_token_seconds_bucket{le="5.0"}': "0+990x1600",
    "agentrt_first_token_seconds_count": "0+1000x1600",
    "agentrt_redis_up": "1x1600",
    "agentrt_redis_master": "1x1600",
    "agentrt_redis_run_number": "77x1600",
    "agentrt_redis_noeviction": "1x1600",
    "agentrt_redis_memory_used_bytes": "50x1600",
    "agentrt_redis_memory_max_bytes": "100x1600",
    "agentrt_redis_evicted_keys_total": "0x1600",
    "agentrt_redis_rejected_connections_total": "0x1600",
    "agentrt_redis_acl_denied_total": "0x1600",
    "agentrt_redis_clients": "50x1600",
    "agentrt_redis_clients_max": "100x1600",
    "agentrt_redis_blocked_clients": "0x1600",
    "agentrt_redis_replicas": "2x1600",
    "agentrt_redis_replica_lag_seconds": "1x1600",
    "agentrt_redis_cluster_ok": "1x1600",
    "agentrt_redis_cluster_slots_bad": "0x1600",
    "agentrt_redis_aof_enabled": "1x1600",
    "agentrt_redis_aof_write_ok": "1x1600",
    "agentrt_redis_aof_rewrite_ok": "1x1600",
    "agentrt_redis_rdb_save_ok": "1x1600",
    "agentrt_redis_aof_delayed_fsync_total": "0x1600",
    "agentrt_redis_rdb_age_seconds": "200000x1600",
    "agentrt_redis_cpu_seconds_total": "0+3x1600",
    'agentrt_redis_probe_seconds_bucket{le="0.1"}': "0+15x1600",
    'agentrt_redis_probe_seconds_bucket{le="0.25"}': "0+15x1600",
    'agentrt_redis_probe_seconds_bucket{le="+Inf"}': "0+15x1600",
    "agentrt_redis_waiting_units": "100x1600",
    "agentrt_redis_waiting_units_max": "10000x1600",
}
"""What a deployment in good order tells, every 15 s for 400 minutes."""


def _r(name: str, values: str) -> Series:
    return {f"agentrt_redis_{name}": values}


CASES: dict[str, tuple[Series, Series]] = {
    "AgentrtRedisDown": (_r("up", "0x1600"), _r("up", "1x1500 0x2 1x97")),
    "AgentrtRedisNoMaster": (_r("master", "0x1600"), {}),
    "AgentrtRedisTwoMasters": (
        {'agentrt_redis_run_number{pod="b"}': "78x1600", 'agentrt_redis_master{pod="b"}': "1x1600"},
        {'agentrt_redis_run_number{pod="b"}': "78x1600", 'agentrt_redis_master{pod="b"}': "0x1600"},
    ),
    "AgentrtRedisMemoryHigh": (_r("memory_used_bytes", "81x1600"), _r("memory_used_bytes", "79x1600")),
    "AgentrtRedisMemoryCritical": (_r("memory_used_bytes", "91x1600"), _r("memory_used_bytes", "89x1600")),
    "AgentrtRedisMemoryUnbounded": (_r("memory_max_bytes", "0x1600"), {}),
    "AgentrtRedisEvictions": (_r("evicted_keys_total", "0x1590 0+1x10"), _r("evicted_keys_total", "9x1600")),
    "AgentrtRedisEvictionPolicy": (_r("noeviction", "0x1600"), {}),
    "AgentrtRedisConnectionsRejected": (_r("rejected_connections_total", "0+1x1600"), {}),
    "AgentrtRedisConnectionsRejectedOften": (
        _r("rejected_connections_total", "0+2x1600"),
        _r("rejected_connections_total", "0+1x1600"),
    ),
    "AgentrtRedisConnectionsHigh": (_r("clients", "91x1600"), _r("clients", "89x1600")),
    "AgentrtRedisBlockedClients": (_r("blocked_clients", "1x1600"), {}),
    "AgentrtRedisAclDenied": (_r("acl_denied_total", "0x1590 0+1x10"), _r("acl_denied_total", "5x1600")),
    "AgentrtRedisReplicasDropped": (_r("replicas", "2x1590 1x10"), _r("replicas", "1x1590 2x10")),
    "AgentrtRedisReplicasFlapping": (
        _r("replicas", " ".join(["2 1"] * 800)),
        _r("replicas", "2x1590 1x10"),
    ),
    "AgentrtRedisReplicaLag": (_r("replica_lag_seconds", "3x1600"), _r("replica_lag_seconds", "2x1600")),
    "AgentrtRedisReplicaLagHigh": (_r("replica_lag_seconds", "11x1600"), _r("replica_lag_seconds", "9x1600")),
    "AgentrtRedisClusterDown": (_r("cluster_ok", "0x1600"), {}),
    "AgentrtRedisClusterSlots": (_r("cluster_slots_bad", "1x1600"), {}),
    "AgentrtRedisPersistenceFailing": (_r("aof_rewrite_ok", "0x1600"), {}),
    "AgentrtRedisFsyncDelayed": (
        _r("aof_delayed_fsync_total", "0x1590 0+1x10"),
        _r("aof_delayed_fsync_total", "4x1600"),
    ),
    "AgentrtRedisSnapshotOld": (_r("aof_enabled", "0x1600"), _r("rdb_age_seconds", "200000x1600")),
    "AgentrtRedisCpuHigh": (_r("cpu_seconds_total", "0+14x1600"), _r("cpu_seconds_total", "0+13x1600")),
    "AgentrtRedisSlow": (_r('probe_seconds_bucket{le="0.1"}', "0+14x1600"), {}),
    "AgentrtRedisUnitsWaiting": (_r("waiting_units", "8001x1600"), _r("waiting_units", "7999x1600")),
    "AgentrtOwnershipLost": (
        {"agentrt_locks_lost_total": "0x1590 0+1x10"},
        {"agentrt_ownership_lost_total": "7x1600"},
    ),
    "AgentrtEffectInDoubt": ({"agentrt_effects_in_doubt": "1x1600"}, {}),
    "AgentrtEffectInDoubtOld": (
        {"agentrt_effects_in_doubt_oldest_seconds": "901x1600"},
        {"agentrt_effects_in_doubt_oldest_seconds": "899x1600"},
    ),
    "AgentrtQueueOld": ({"agentrt_queue_oldest_seconds": "61x1600"}, {"agentrt_queue_oldest_seconds": "59x1600"}),
    "AgentrtDeadLetters": ({"agentrt_dead_letters": "1x1600"}, {}),
    "AgentrtMemoryJobsBuried": ({"agentrt_memory_jobs_buried": "1x1600"}, {}),
    "AgentrtMemoryJobsLate": ({"agentrt_memory_jobs_late": "1001x1600"}, {"agentrt_memory_jobs_late": "999x1600"}),
    "AgentrtIdentityMismatch": (
        {"agentrt_identity_mismatches_total": "0x1590 0+1x10"},
        {"agentrt_identity_mismatches_total": "1x1600"},
    ),
    "AgentrtNotReady": ({"agentrt_ready": "0x1600"}, {'agentrt_ready{pod="b"}': "0x1600"}),
    "AgentrtPodNotReady": ({'agentrt_ready{pod="b"}': "0x1600"}, {'agentrt_ready{pod="b"}': "1x1590 0x10"}),
    "AgentrtNoticesSilent": ({"agentrt_notices_age_seconds": "4x1600"}, {"agentrt_notices_age_seconds": "2.9x1600"}),
    "AgentrtTurnErrorsFast": (
        {'agentrt_turns_total{status="failed"}': "0+100x1600"},
        {'agentrt_turns_total{status="failed"}': "0+1x1590 1590x10"},
    ),
    "AgentrtTurnErrorsSlow": (
        {'agentrt_turns_total{status="failed"}': "0+40x1600"},
        {'agentrt_turns_total{status="failed"}': "0+20x1600"},
    ),
    "AgentrtFirstTokenSlowFast": (
        {'agentrt_first_token_seconds_bucket{le="5.0"}': "0+200x1600"},
        {'agentrt_first_token_seconds_bucket{le="5.0"}': "0+400x1600"},
    ),
    "AgentrtFirstTokenSlowSlow": (
        {'agentrt_first_token_seconds_bucket{le="5.0"}': "0+600x1600"},
        {'agentrt_first_token_seconds_bucket{le="5.0"}': "0+800x1600"},
    ),
}


LONG = {name for name, rule in ALERTS.items() if ":ratio_rate" in rule["expr"]}
"""What looks back for hours; the others are asked after 20 minutes, which is far faster."""


def _series(service: str, changed: Series, long: bool) -> list[dict[str, str]]:
    """One deployment, in order but for what is changed: rules look at each by itself, so many fit in one test."""
    found = []
    for name, told in (HEALTHY | changed).items():
        if long and not name.startswith(("agentrt_turns", "agentrt_first_token", "agentrt_ready")):
            continue
        short = told.replace("x1600", "x80").replace("x1590", "x70").replace("x1500", "x30")
        metric, _, inner = name.rstrip("}").partition("{")
        labels = [part for part in (inner, "" if "pod=" in inner else 'pod="a"') if part]
        series = f'{metric}{{{",".join(labels)},namespace="agents",service="{service}"}}'
        found.append({"series": series, "values": told if long else short})
    return found


def _run(path: Path, long: bool) -> None:
    """Have promtool ask for every alert: whether it fires on its cause, and stays silent beside it."""
    at, interval = ("400m", "5m") if long else ("20m", "1m")
    series, asked = _series("in-order", {}, long), []

    def ask(selector: str, fires: bool) -> None:
        samples = [{"labels": "{}", "value": 1}] if fires else []
        asked.append({"expr": f"count(ALERTS{{{selector}}})", "eval_time": at, "exp_samples": samples})

    ask('service="in-order"', fires=False)
    for alert in ALERTS.keys() & LONG if long else ALERTS.keys() - LONG:
        for kind, changed in zip(("cause", "beside"), CASES[alert], strict=True):
            service = f"{alert}-{kind}"
            series += _series(service, changed, long)
            ask(f'alertname="{alert}",alertstate="firing",service="{service}"', kind == "cause")
    test = {"interval": "15s", "input_series": series, "promql_expr_test": asked}
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": [test]}))
    told = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_has_its_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.needs("promtool")
def test_each_alert_fires_on_its_cause_and_not_beside_it(tmp_path: Path) -> None:
    _run(tmp_path / "short.yaml", long=False)
    _run(tmp_path / "long.yaml", long=True)


@pytest.mark.needs("promtool")
def test_promtool_is_content() -> None:
    command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(RULES)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def names_in(expression: str) -> set[str]:
    """The metrics that an expression reads. Raises for what is no PromQL."""
    promql_parser.parse(expression)
    bare = re.sub(r'"[^"]*"|\{[^}]*\}', "", expression)
    return set(re.findall(r"\bagentrt[a-z0-9_:]*", bare))


def exported() -> set[str]:
    """Every series that /metrics can have."""
    described = list(Telemetry().registry.collect()) + list(Telemetry().redis_vitals.describe())
    found: set[str] = set()
    for family in described:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_what_the_rules_read_exists() -> None:
    known = exported() | {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    for group in GROUPS:
        for rule in group["rules"]:
            assert names_in(rule["expr"]) <= known, rule["expr"]


def test_every_alert_says_what_it_costs_and_what_to_do() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        notes = rule["annotations"]
        assert notes["summary"] and notes["impact"], name
        page, _, anchor = notes["runbook"].partition("#")
        assert page == "docs/operations.md" and anchor in anchors, notes["runbook"]
