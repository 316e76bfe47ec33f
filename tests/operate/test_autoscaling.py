"""The rendered autoscaler: it follows a spike, comes back slowly, holds when it is blind, and does not run away."""

from __future__ import annotations

import copy
import itertools
import math
import re
from typing import Any

import promql_parser
import pytest
import yaml
from ops import chart

from tests.operate.autoscaler import SYNC_S, Autoscaler, Deployment
from tests.operate.manifests import of_kind, parse
from tests.operate.test_alerts import exported, names_in

pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this platform")

SLOTS = 256
LEAST: dict[str, Any] = {"auth": {"enabled": False}, "redis": {"host": "redis.example.com"}}


def objects(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for text in chart.render({**LEAST, **values}).values() for one in parse(text)]


@pytest.fixture(scope="module")
def hpa() -> dict[str, Any]:
    (scaler,) = of_kind(objects({"autoscaling": {"hpa": {"enabled": True}}}), "HorizontalPodAutoscaler")
    spec: dict[str, Any] = scaler["spec"]
    return spec


def simulate(
    spec: dict[str, Any],
    load: dict[int, int],
    until_s: int,
    blind: range = range(0),
    run_s: float = 5.0,
    unknown: float | None = None,
) -> tuple[list[int], Deployment]:
    """Replicas second by second. `load`: from which second how many runs arrive in each; `unknown`: what the signals
    are while it is `blind`."""
    deployment = Deployment(SLOTS, run_s, start_s=10.0)
    deployment.pods = [0.0] * spec["minReplicas"]
    scaler = Autoscaler(spec, spec["minReplicas"])
    seen, arrivals = [], 0
    for now in range(until_s):
        arrivals = load.get(now, arrivals)
        deployment.tick(now, arrivals)
        if now % SYNC_S == 0:
            values = deployment.metrics(now)
            if now in blind:
                values |= dict.fromkeys((name for name in values if name != "cpu"), unknown)
            deployment.scale(now, scaler.sync(now, values))
        seen.append(scaler.replicas)
    return seen, deployment


def test_replicas_follow_a_spike_up_within_45_s_and_come_back_one_by_one(hpa: dict[str, Any]) -> None:
    spike = 500  # runs a second of 5 s: 2,500 at once, ten pods' slots
    seen, deployment = simulate(hpa, {0: 10, 60: spike, 360: 10}, 2400)
    needed = math.ceil(spike * 5 / SLOTS)
    assert max(seen[60:106]) >= needed
    assert not deployment.queue
    assert seen[-1] == hpa["minReplicas"]
    peak_at = seen.index(max(seen))
    falls = [now for now in range(1, len(seen)) if seen[now] < seen[now - 1]]
    assert min(seen[106:600]) >= needed, "what the spike needed stays for 5 minutes after it"
    assert all(seen[now - 1] - seen[now] == 1 for now in falls)
    assert all(later - before >= 60 for before, later in itertools.pairwise(falls))
    assert falls[0] > peak_at


def test_it_does_not_swing_under_a_steady_load(hpa: dict[str, Any]) -> None:
    seen, _ = simulate(hpa, {0: 200}, 3600)
    settled = seen[1200:]
    assert max(settled) - min(settled) <= 1
    assert settled[-1] >= math.ceil(200 * 5 / SLOTS)


def test_it_holds_while_the_metrics_cannot_be_read(hpa: dict[str, Any]) -> None:
    """Redis or Prometheus away: nothing, which must not look like an empty queue."""
    seen, _ = simulate(hpa, {0: 400, 600: 0}, 2000, blind=range(590, 1900))
    assert min(seen[590:1890]) == seen[590] > hpa["minReplicas"]


def test_control_a_nan_that_gets_through_scales_in(hpa: dict[str, Any]) -> None:
    """Why the queries drop it: prometheus-adapter makes a number of it, far below any target."""
    seen, _ = simulate(hpa, {0: 400, 600: 0}, 2000, blind=range(590, 1900), unknown=math.nan)
    assert min(seen[590:1890]) == hpa["minReplicas"] < seen[590]


def _drops_nan(query: str) -> bool:
    """Whether each series is compared before it is aggregated: NaN compares with nothing."""
    return bool(re.fullmatch(r"(max|sum)\(\w+\{[^}]*\} >= 0\)", query) or re.search(r">= 0\) or vector\(0\)$", query))


def test_it_stays_within_its_bounds(hpa: dict[str, Any]) -> None:
    seen, _ = simulate(hpa, {0: 0, 30: 1500}, 240)
    assert max(seen) == hpa["maxReplicas"] and min(seen) == hpa["minReplicas"]


def test_control_a_total_as_value_runs_away(hpa: dict[str, Any]) -> None:
    """Why the totals are AverageValue: with `Value` each round multiplies what is there by the same ratio."""
    wrong = copy.deepcopy(hpa)
    for metric in wrong["metrics"]:
        if metric["type"] == "External":
            target = metric["external"]["target"]
            metric["external"]["target"] = {"type": "Value", "value": target["averageValue"]}
    right, _ = simulate(hpa, {0: 100}, 1200)
    runaway, _ = simulate(wrong, {0: 100}, 1200)
    assert max(right) < hpa["maxReplicas"] == max(runaway)


def queries(documents: list[dict[str, Any]]) -> dict[str, str]:
    """Metric → the PromQL that the adapter's rule gives it."""
    (config,) = [one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"].endswith("adapter-rules")]
    rules = yaml.safe_load(config["data"]["rules.yaml"])["externalRules"]
    return {rule["name"]["as"]: rule["metricsQuery"] for rule in rules}


def test_every_metric_of_the_hpa_has_a_rule_and_every_rule_gives_one_element() -> None:
    every = {name: {"enabled": True} for name in ("queueDepth", "queueAge", "occupancy", "redisWaiting", "latency")}
    documents = objects({"autoscaling": {"hpa": {"enabled": True}, "signals": every}})
    (scaler,) = of_kind(documents, "HorizontalPodAutoscaler")
    asked = {one["external"]["metric"]["name"] for one in scaler["spec"]["metrics"] if one["type"] == "External"}
    rules = queries(documents)
    assert asked == rules.keys() and len(rules) == 5
    for query in rules.values():
        filled = query.replace("<<.LabelMatchers>>", 'namespace="agents"')
        assert names_in(filled) <= exported()
        assert re.match(r"^(max|sum)\(|.* or vector\(0\)$", filled), "one element, idle too"
        assert _drops_nan(filled), "a pod that does not know must not look idle"
        promql_parser.parse(filled)


def test_keda_asks_the_same_as_the_hpa() -> None:
    signals = {"signals": {"latency": {"enabled": True}}}
    hpa_documents = objects({"autoscaling": {"hpa": {"enabled": True, "cpu": None}, **signals}})
    keda_documents = objects({"autoscaling": {"keda": {"enabled": True}, **signals}})
    (scaler,) = of_kind(hpa_documents, "HorizontalPodAutoscaler")
    (scaled,) = of_kind(keda_documents, "ScaledObject")
    wanted = []
    for metric in scaler["spec"]["metrics"]:
        target = metric["external"]["target"]
        rule = queries(hpa_documents)[metric["external"]["metric"]["name"]]
        query = rule.replace("<<.LabelMatchers>>", 'namespace="agentrt"')
        wanted.append((target["type"], target.get("averageValue", target.get("value")), query))
    asked = []
    for trigger in scaled["spec"]["triggers"]:
        told = trigger["metadata"]
        assert told["ignoreNullValues"] == "false", "losing Prometheus must not scale in"
        asked.append((trigger["metricType"], told["threshold"], told["query"]))
    assert asked == wanted
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["spec"]["behavior"]


def test_keda_without_prometheus_asks_the_pods() -> None:
    values = {"autoscaling": {"keda": {"enabled": True, "trigger": "metrics-api", "existingSecret": "operator"}}}
    documents = objects(values)
    (scaled,) = of_kind(documents, "ScaledObject")
    (service,) = of_kind(documents, "Service")
    host = f"http://{service['metadata']['name']}.agentrt.svc:{service['spec']['ports'][0]['port']}"
    locations = set()
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "metrics-api" and trigger["metricType"] == "AverageValue"
        assert trigger["metadata"]["url"] == f"{host}/operator/queue"
        assert trigger["metadata"]["authMode"] == "bearer"
        locations.add(trigger["metadata"]["valueLocation"])
    assert locations == {"depth", "oldest_seconds"}
