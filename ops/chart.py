"""The Helm chart: its values with their comments, its table, its schema, and its rendering."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CHART", "Value", "read_values", "render", "schema", "table", "values_file"]

CHART = Path(__file__).parents[1] / "helm" / "agentrt"

_COMMENT = re.compile(r"^(\s*)# -- (.+)$")
_KEY = re.compile(r"^(\s*)([A-Za-z0-9_]+):(.*)$")


@dataclass(frozen=True, slots=True)
class Value:
    """One documented value: its dotted path, its default, its comment."""

    path: str
    default: Any
    text: str


def values_file(name: str) -> dict[str, Any]:
    """The values of `ci/<name>-values.yaml`."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))
    return loaded


def read_values() -> list[Value]:
    """Every value with a `# --` comment, in the file's order."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    path: list[tuple[int, str]] = []
    comment = ""
    for line in text.splitlines():
        if told := _COMMENT.match(line):
            comment = told[2]
        elif key := _KEY.match(line):
            indent = len(key[1])
            path = [part for part in path if part[0] < indent] + [(indent, key[2])]
            if comment:
                names = [name for _, name in path]
                found.append(Value(".".join(names), _at(defaults, names), comment))
            comment = ""
    return found


def _at(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return values


def table() -> str:
    """The table of values for the chart's README."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in read_values():
        shown = json.dumps(value.default)
        if len(shown) > 60:
            shown = "see values.yaml"
        rows.append(f"| `{value.path}` | `{shown}` | {value.text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


_FREE = {
    *("commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "nodeSelector", "affinity"),
    *("config", "resources", "podSecurityContext", "securityContext", "service.annotations"),
    *("livenessProbe", "readinessProbe", "startupProbe", "serviceAccount.annotations", "redis.builtin.resources"),
    *("ingress.annotations", "httpRoute.annotations", "autoscaling.behavior"),
    *("monitoring.serviceMonitor.labels", "monitoring.prometheusRule.labels"),
    *("monitoring.dashboards.labels", "monitoring.dashboards.annotations"),
}
"""Objects whose keys are the user's or Kubernetes' own."""

_TEXT = {"type": "string"}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_RULES: dict[str, dict[str, Any]] = {
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.repository": {"type": "string", "minLength": 1},
    "agents": {"type": "string", "pattern": "^[^:]+:[^:]+$"},
    "deps": {"type": "string", "pattern": "^([^:]+:[^:]+)?$"},
    "replicas": {"type": "integer", "minimum": 1},
    "strategy.maxUnavailable": {"type": ["integer", "string"]},
    "strategy.maxSurge": {"type": ["integer", "string"]},
    "config": {
        "type": "object",
        "propertyNames": {"pattern": "^AGENTRT_[A-Z0-9_]+$"},
        "additionalProperties": {"type": ["string", "number"]},
    },
    "preflight": {"enum": ["off", "warn", "fail"]},
    "redis.mode": {"enum": ["external", "sentinel", "cluster", "builtin"]},
    "redis.port": _PORT,
    "redis.hosts": {"type": "array", "items": {"type": "string", "pattern": "^.+:[0-9]+$"}},
    "redis.database": {"type": "integer", "minimum": 0},
    "locks.redisUrls": {"type": "array", "items": _TEXT, "uniqueItems": True},
    "drain.seconds": {"type": "integer", "minimum": 0},
    "drain.runsSeconds": {"type": "integer", "minimum": 0},
    "drain.preStopSeconds": {"type": "integer", "minimum": 0},
    "drain.terminationGracePeriodSeconds": {"type": ["integer", "null"], "minimum": 1},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": _PORT,
    "containerPort.http": _PORT,
    "podDisruptionBudget.maxUnavailable": {"type": "integer", "minimum": 1},
    "networkPolicy.modelsPort": _PORT,
    "networkPolicy.redisPorts": {"type": "array", "items": _PORT},
    "networkPolicy.apiPorts": {"type": "array", "items": _PORT, "minItems": 1},
    "deletionCost.seconds": {"type": "integer", "minimum": 1},
    "ingress.hosts": {"type": "array", "items": _TEXT},
    "ingress.pathType": {"enum": ["Prefix", "Exact", "ImplementationSpecific"]},
    "httpRoute.hostnames": {"type": "array", "items": _TEXT},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.hpa.cpu": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    "autoscaling.keda.trigger": {"enum": ["prometheus", "metrics-api"]},
    "autoscaling.keda.pollingInterval": {"type": "integer", "minimum": 1},
    "monitoring.prometheusRule.disabled": {"type": "array", "items": _TEXT},
    "otel.ratio": {"type": "string", "pattern": "^(0(\\.[0-9]+)?|1(\\.0+)?)$"},
}


def schema() -> dict[str, Any]:
    """The JSON schema of the values: every known value with its type, and nothing else."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    texts = {value.path: value.text for value in read_values()}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_describe(defaults, "", texts)}


def _describe(value: Any, path: str, texts: dict[str, str]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": texts[path]} if path in texts else {}
    if path in _RULES:
        return {**described, **_RULES[path]}
    if isinstance(value, dict) and path not in _FREE:
        inner = {name: _describe(item, f"{path}.{name}".lstrip("."), texts) for name, item in value.items()}
        if not path:
            inner["global"] = {"type": "object", "description": "What Helm hands to subcharts; not used"}
        return {**described, "type": "object", "additionalProperties": False, "properties": inner}
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    described["type"] = kinds[type(value)]
    if path.startswith("autoscaling.signals."):
        described.update({"pattern": "^[0-9]*(\\.[0-9]+)?m?$"} if isinstance(value, str) else {})
    return described


def render(values: dict[str, Any], *, name: str = "agentrt", namespace: str = "agentrt") -> dict[str, str]:
    """The rendered manifests by their file below templates/, by Helm 4's own library."""
    import helm_python  # a library of 80 MB that only Linux has: not for those who want the table

    rendered = helm_python.Chart.load(str(CHART)).render(values, name=name, namespace=namespace)
    head = "agentrt/templates/"
    return {path.removeprefix(head): text for path, text in rendered.items() if path.endswith(".yaml")}
