"""`k8s/`: the chart rendered for those who use kustomize or kubectl alone."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ops.chart import render, values_file

__all__ = ["files"]

_HEAD = "# Rendered from helm/agentrt by `make k8s`; do not edit.\n"
_HELM = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)
_MONITORING = ("servicemonitor.yaml", "prometheusrule.yaml", "dashboards.yaml")


def files() -> dict[str, str]:
    """Every rendered file by its path below k8s/."""
    values = values_file("default")
    base = _documents(values)
    on = {part: {"enabled": True} for part in ("serviceMonitor", "prometheusRule", "dashboards")}
    watched = _documents({**values, "monitoring": {**values["monitoring"], **on}})
    monitoring = {name: watched[name] for name in _MONITORING if name in watched}
    written = {f"base/{name}": text for name, text in base.items()}
    written |= {f"monitoring/{name}": text for name, text in monitoring.items()}
    written["base/kustomization.yaml"] = _kustomization(sorted(base))
    written["monitoring/kustomization.yaml"] = _kustomization(sorted(monitoring))
    return written


def _documents(values: dict[str, Any]) -> dict[str, str]:
    found = {}
    for path, text in render(values).items():
        kept = _HELM.sub("", text).strip("\n-")
        if kept.strip() and "/" not in path:
            found[path] = f"{_HEAD}{kept.strip(chr(10))}\n"
    return found


def _kustomization(resources: list[str]) -> str:
    body = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "agentrt"}
    return _HEAD + yaml.safe_dump({**body, "resources": resources}, sort_keys=False)
