"""The dashboards: what they ask for exists, is PromQL, and gives data after a load on real pods."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from ops.dashboards import DASHBOARDS, files

from agentrt.telemetry import Telemetry
from tests.harness.pod import Pod
from tests.harness.prometheus import Prometheus
from tests.harness.redis_server import RedisServer
from tests.operate.test_alerts import RULES, exported, names_in

RECORDED = {
    rule["record"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
RARE = {
    *(
        "agentrt_claims_total",
        "agentrt_locks_lost_total",
        "agentrt_lock_wait_seconds",
        "agentrt_redis_probe_failures_total",
    ),
    *("agentrt_redis_replica_lag_seconds", 'code=~"[45].."', "handed_over|lost"),
    *("agentrt_memory_compacted_total", "compact|erase", 'outcome="failed"'),
}
"""Nothing of the kind happens in the load below."""


def expressions() -> list[str]:
    """Every expression of every dashboard, with Grafana's variables filled in."""
    found = []
    for text in files().values():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                filled = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*")
                found.append(filled.replace("$service", ".*"))
    return found


def test_every_expression_is_promql_over_metrics_that_exist() -> None:
    known = exported() | RECORDED
    for expression in expressions():
        assert names_in(expression) and names_in(expression) <= known, expression


def test_what_is_summed_by_labels_has_them() -> None:
    """Prometheus sums by a label that does not exist without a word, into one nameless line."""
    kept = Telemetry().registry._names_to_collectors
    looked = 0
    for expression in expressions():
        for labels, name in re.findall(r"sum by \(([^)]*)\) \(rate\((agentrt_\w+)\{", expression):
            has = {"le", "service", *getattr(kept[name], "_labelnames", ())}
            assert set(labels.split(", ")) <= has, expression  # `service` is given by the scrape
            looked += 1
    assert looked > 20


def test_counters_are_asked_for_their_rate() -> None:
    for expression in expressions():
        for name in re.findall(r"\bagentrt_\w+(?:_total|_bucket|_count)\b", expression):
            assert re.search(rf"(rate|increase)\({name}\{{[^}}]*\}}\[5m\]\)", expression), expression


def test_every_panel_can_be_read() -> None:
    for text in files().values():
        board: dict[str, Any] = json.loads(text)
        assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace", "service"]
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(titles)) == len(titles)
        for panel in board["panels"]:
            assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"]
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
                assert "[5m]" not in target["expr"] and target["legendFormat"]
    assert {board.name for board in DASHBOARDS} == {name.removesuffix(".json") for name in files()}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Prometheus, Pod, RedisServer]]:
    env = {"AGENTRT_DEMO_DB": str(tmp_path / "demo.db")}
    with (
        RedisServer() as server,
        Pod(server.url, name="seen", env=env) as pod,
        Prometheus([pod], rules=RULES) as prometheus,
    ):
        yield prometheus, pod, server


@pytest.mark.needs("prometheus")
def test_after_a_load_every_panel_has_data_and_alerts_fire_on_their_real_causes(
    watched: tuple[Prometheus, Pod, RedisServer],
) -> None:
    prometheus, pod, server = watched
    prometheus.until("agentrt_ready == 1")
    for number in range(6):
        for text in ("count to 5", "look up order 1", f"open a ticket: number {number}", "my name is Ada"):
            body = {"model": "support", "input": text, "stream": True, "user": "u1"}
            answer = httpx2.post(
                f"{pod.url}/v1/responses", json=body, headers={"authorization": "Bearer x"}, timeout=30
            )
            assert answer.status_code == 200, answer.text
        prometheus.until(f"agentrt_turns_total >= {number * 3}")
    prometheus.until("agentrt:first_token_slow:ratio_rate5m")
    empty = []
    for expression in expressions():
        rare = any(word in expression for word in RARE) or "turn_errors" in expression
        if not rare and not prometheus.ask(expression):
            empty.append(expression)
    assert not empty
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    pending = 'ALERTS{alertname="%s"}'  # their `for` is longer than a test may take
    for alert in ("AgentrtRedisEvictionPolicy", "AgentrtRedisMemoryUnbounded"):
        prometheus.until(pending % alert)
    assert not prometheus.ask(pending % "AgentrtRedisDown")
    server.stop()
    prometheus.until(pending % "AgentrtRedisDown")
    prometheus.until(pending % "AgentrtNotReady")
