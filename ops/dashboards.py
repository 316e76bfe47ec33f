"""The dashboards, as Grafana takes them: one table a dashboard, one line a panel."""

from __future__ import annotations

import json
from typing import Any

from ops.memory_dashboard import MEMORY
from ops.panels import Dashboard, Panel, highest, quantile, rate

__all__ = ["DASHBOARDS", "files"]

_IN = 'namespace=~"$namespace",service=~"$service"'
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 8

DASHBOARDS = (
    Dashboard(
        "service",
        "agentrt / Service",
        (
            Panel(
                "Requests",
                "HTTP requests by route.",
                "reqps",
                (("{{route}}", rate("agentrt_http_requests_total", "route")),),
            ),
            Panel(
                "Errors",
                "HTTP answers of the server's and of the client's fault, by code.",
                "reqps",
                (("{{code}}", rate("agentrt_http_requests_total", "code", 'code=~"[45].."')),),
            ),
            Panel(
                "Turns", "Runs that ended, by status.", "ops", (("{{status}}", rate("agentrt_turns_total", "status")),)
            ),
            Panel(
                "Duration of a turn",
                "From the request to the committed turn, by agent; 95th percentile.",
                "s",
                (("{{agent}}", quantile(0.95, "agentrt_turn_seconds", "agent")),),
            ),
            Panel(
                "Time to first token",
                "From the start of a run to its first output, by agent; median and 95th percentile.",
                "s",
                (
                    ("{{agent}} p50", quantile(0.5, "agentrt_first_token_seconds", "agent")),
                    ("{{agent}} p95", quantile(0.95, "agentrt_first_token_seconds", "agent")),
                ),
            ),
            Panel(
                "Tokens",
                "Tokens that providers reported, by agent and direction: what is paid for.",
                "short",
                (("{{agent}} {{direction}}", rate("agentrt_tokens_total", "agent, direction")),),
            ),
            Panel(
                "Calls of models",
                "By model and outcome.",
                "ops",
                (("{{model}} {{outcome}}", rate("agentrt_model_calls_total", "model, outcome")),),
            ),
            Panel(
                "Turns that fail",
                "Share of failed turns over an hour; the objective is 0.5 %.",
                "percentunit",
                (("1 h", "agentrt:turn_errors:ratio_rate1h{@}"), ("5 min", "agentrt:turn_errors:ratio_rate5m{@}")),
            ),
            Panel(
                "First tokens later than 5 s",
                "Share of turns over an hour; the objective is 5 %.",
                "percentunit",
                (
                    ("1 h", "agentrt:first_token_slow:ratio_rate1h{@}"),
                    ("5 min", "agentrt:first_token_slow:ratio_rate5m{@}"),
                ),
            ),
        ),
    ),
    Dashboard(
        "runs",
        "agentrt / Runs and queue",
        (
            Panel(
                "Depth of the queue",
                "Runs that wait for a pod.",
                "short",
                (("waiting", highest("agentrt_queue_depth")),),
            ),
            Panel(
                "Age of the queue",
                "How long the oldest has waited.",
                "s",
                (("oldest", highest("agentrt_queue_oldest_seconds")),),
            ),
            Panel(
                "Occupancy",
                "Runs in flight over the slots of all pods.",
                "percentunit",
                (("occupied", "sum(agentrt_runs_in_flight{@}) / sum(agentrt_runs_capacity{@})"),),
            ),
            Panel(
                "Pods",
                "Pods that are ready, and pods that are scraped.",
                "short",
                (("ready", "sum(agentrt_ready{@})"), ("all", "count(agentrt_ready{@})")),
            ),
            Panel(
                "Beginnings",
                "What became of requests for a turn.",
                "ops",
                (("{{outcome}}", rate("agentrt_begins_total", "outcome")),),
            ),
            Panel(
                "Recoveries",
                "Runs that were found without a living owner.",
                "ops",
                (("{{outcome}}", rate("agentrt_claims_total", "outcome")),),
            ),
            Panel(
                "Handed over and lost",
                "Runs that went on elsewhere: in a drain, or because another pod owned them.",
                "ops",
                (
                    ("{{status}}", rate("agentrt_turns_total", "status", 'status=~"handed_over|lost"')),
                    ("displaced", "sum(rate(agentrt_ownership_lost_total{@}[$__rate_interval]))"),
                ),
            ),
            Panel("Dead letters", "Runs that were given up.", "short", (("dead", highest("agentrt_dead_letters")),)),
            Panel(
                "Runs by pod",
                "Runs in flight, by pod.",
                "short",
                (("{{pod}}{{instance}}", "sum by (pod, instance) (agentrt_runs_in_flight{@})"),),
            ),
        ),
    ),
    Dashboard(
        "effects",
        "agentrt / Effects and locks",
        (
            Panel(
                "Effects",
                "Tool calls by what became of them: recorded, failed, replayed, in doubt.",
                "ops",
                (("{{outcome}}", rate("agentrt_effects_total", "outcome")),),
            ),
            Panel(
                "Effects by tool",
                "Tool calls, by tool.",
                "ops",
                (("{{tool}}", rate("agentrt_effects_total", "tool")),),
            ),
            Panel(
                "In doubt",
                "Effects whose outcome is not known.",
                "short",
                (("in doubt", highest("agentrt_effects_in_doubt")),),
            ),
            Panel(
                "Age of doubt",
                "How long the oldest effect has been in doubt.",
                "s",
                (("oldest", highest("agentrt_effects_in_doubt_oldest_seconds")),),
            ),
            Panel(
                "Waiting for locks",
                "Time that calls waited for a named lock; 95th percentile, by outcome.",
                "s",
                (("{{outcome}}", quantile(0.95, "agentrt_lock_wait_seconds", "outcome")),),
            ),
            Panel(
                "Locks asked for",
                "Named locks, by outcome.",
                "ops",
                (("{{outcome}}", rate("agentrt_lock_wait_seconds_count", "outcome")),),
            ),
            Panel(
                "Locks lost",
                "Named locks that were lost while they were held.",
                "ops",
                (("{{reason}}", rate("agentrt_locks_lost_total", "reason")),),
            ),
            Panel(
                "Writes refused by the fence",
                "Runs that a pod had to stop because another one owned the session.",
                "ops",
                (("refused", "sum(rate(agentrt_ownership_lost_total{@}[$__rate_interval]))"),),
            ),
            Panel(
                "Identity mismatches",
                "Stored state that was not the one asked for; any is a defect.",
                "short",
                (("mismatches", "sum(increase(agentrt_identity_mismatches_total{@}[$__rate_interval]))"),),
            ),
        ),
    ),
    MEMORY,
    Dashboard(
        "redis",
        "agentrt / Redis as memory",
        (
            Panel(
                "Memory",
                "Used, and maxmemory.",
                "bytes",
                (
                    ("used", highest("agentrt_redis_memory_used_bytes")),
                    ("max", highest("agentrt_redis_memory_max_bytes")),
                ),
            ),
            Panel(
                "Evictions",
                "Keys that Redis threw away; any is lost state.",
                "short",
                (("evicted", "max(increase(agentrt_redis_evicted_keys_total{@}[$__rate_interval]))"),),
            ),
            Panel(
                "Connections",
                "Connections, and how many there may be; those that were refused.",
                "short",
                (
                    ("connections", highest("agentrt_redis_clients")),
                    ("max", highest("agentrt_redis_clients_max")),
                    ("refused", "max(increase(agentrt_redis_rejected_connections_total{@}[$__rate_interval]))"),
                ),
            ),
            Panel(
                "Replication",
                "Replicas, and how far the last one is behind, in seconds.",
                "short",
                (
                    ("replicas", highest("agentrt_redis_replicas")),
                    ("lag", highest("agentrt_redis_replica_lag_seconds")),
                ),
            ),
            Panel(
                "Persistence",
                "1 for what went well: the AOF's last write and rewrite, the last snapshot.",
                "short",
                (
                    ("AOF write", "min(agentrt_redis_aof_write_ok{@})"),
                    ("AOF rewrite", "min(agentrt_redis_aof_rewrite_ok{@})"),
                    ("snapshot", "min(agentrt_redis_rdb_save_ok{@})"),
                ),
            ),
            Panel(
                "CPU of Redis",
                "Of the one core that it can use.",
                "percentunit",
                (("main thread", "max(rate(agentrt_redis_cpu_seconds_total{@}[$__rate_interval]))"),),
            ),
            Panel(
                "Answer of the probe",
                "A write and a read, as the pods see it.",
                "s",
                (
                    ("p50", quantile(0.5, "agentrt_redis_probe_seconds", "service")),
                    ("p99", quantile(0.99, "agentrt_redis_probe_seconds", "service")),
                ),
            ),
            Panel(
                "Units",
                "Units of commands that pods send, and the writes that bear them.",
                "ops",
                (
                    ("units", "sum(rate(agentrt_redis_units_total{@}[$__rate_interval]))"),
                    ("writes", "sum(rate(agentrt_redis_writes_total{@}[$__rate_interval]))"),
                ),
            ),
            Panel(
                "Trouble",
                "Failed probes by reason, and breaks of the state connection.",
                "ops",
                (
                    ("{{reason}}", rate("agentrt_redis_probe_failures_total", "reason")),
                    ("breaks", "sum(rate(agentrt_redis_connection_breaks_total{@}[$__rate_interval]))"),
                ),
            ),
        ),
    ),
)


def files() -> dict[str, str]:
    """The JSON of each dashboard by its file's name."""
    return {f"{board.name}.json": json.dumps(_board(board), indent=2) + "\n" for board in DASHBOARDS}


def _board(board: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"agentrt-{board.name}",
        "title": board.title,
        "tags": ["agentrt"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [_datasource(), _variable("namespace", ""), _variable("service", 'namespace=~"$namespace"')]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(name: str, within: str) -> dict[str, Any]:
    query = f"label_values(agentrt_ready{{{within}}}, {name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = {"h": _HEIGHT, "w": _WIDTH, "x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT}
    targets = [
        {"refId": chr(ord("A") + at), "datasource": _DATASOURCE, "expr": expr.replace("@", _IN), "legendFormat": legend}
        for at, (legend, expr) in enumerate(panel.lines)
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }
