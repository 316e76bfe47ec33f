"""Thresholds (loadtest/thresholds.toml), and what a load test came to, held against them. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "Threshold", "judge", "read"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the result."""

    name: str
    requests: int
    failures: int
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """What one row must keep. `failures_max` is a share, from 0 to 1."""

    requests_min: int = 1
    failures_max: float = 0.0
    p95_ms_max: float | None = None


def read(path: Path) -> dict[str, Threshold]:
    """The thresholds, by the name of their row. Raises TypeError for a name that is none."""
    return {name: Threshold(**fields) for name, fields in tomllib.loads(path.read_text(encoding="utf-8")).items()}


def judge(rows: Sequence[Row], thresholds: Mapping[str, Threshold]) -> list[str]:
    """What was missed; empty for nothing. A row without a threshold may not fail at all; one without rows is a miss."""
    found = {row.name: row for row in rows}
    missed = [] if any(row.requests for row in rows) else ["there was no request at all"]
    for name in sorted({*found, *thresholds}):
        row, threshold = found.get(name, Row(name, 0, 0, 0.0)), thresholds.get(name, Threshold(requests_min=0))
        if row.requests < threshold.requests_min:
            missed.append(f"{name}: {row.requests} requests, at least {threshold.requests_min} are asked for")
        if row.requests and row.failures / row.requests > threshold.failures_max:
            missed.append(f"{name}: {row.failures} of {row.requests} failed, {threshold.failures_max:.1%} may")
        if threshold.p95_ms_max is not None and row.p95_ms > threshold.p95_ms_max:
            missed.append(f"{name}: p95 is {row.p95_ms:.0f} ms, {threshold.p95_ms_max:.0f} are allowed")
    return missed
