"""The gate of the load test: what is missed is said, and nothing at all is a miss."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtest.gate import Row, Threshold, judge, read
from loadtest.shapes import ramp, spike

ROOT = Path(__file__).parents[2]
KEPT = Row("chat", 100, 1, 90.0)
LIMITS = {"chat": Threshold(requests_min=10, failures_max=0.01, p95_ms_max=100)}


def test_what_is_kept_is_kept() -> None:
    assert judge([KEPT], LIMITS) == []


@pytest.mark.parametrize(
    ("rows", "missed"),
    [
        ([], "there was no request at all"),
        ([Row("chat", 0, 0, 0)], "there was no request at all"),
        ([KEPT, Row("other", 5, 1, 1)], "other: 1 of 5 failed, 0.0% may"),
        ([Row("other", 5, 0, 1)], "chat: 0 requests, at least 10 are asked for"),
        ([Row("chat", 100, 2, 90)], "chat: 2 of 100 failed, 1.0% may"),
        ([Row("chat", 100, 0, 101)], "chat: p95 is 101 ms, 100 are allowed"),
    ],
)
def test_what_is_missed_is_said(rows: list[Row], missed: str) -> None:
    assert missed in judge(rows, LIMITS)


def test_the_file_names_rows_that_the_scenarios_write() -> None:
    """A threshold of a row that was renamed would be missed for ever, or, without a minimum, kept for ever."""
    written = (ROOT / "loadtest" / "locustfile.py").read_text(encoding="utf-8")
    thresholds = read(ROOT / "loadtest" / "thresholds.toml")
    assert thresholds
    assert all(f'"{name}"' in written and threshold.requests_min > 0 for name, threshold in thresholds.items())


def test_shapes() -> None:
    """A ramp grows to all of its users and stays; a spike is ten times as many, for a third of the time."""
    assert [ramp(at, 100, 40) for at in (0, 40, 80, 99)] == [1, 20, 40, 40]
    assert [spike(at, 90, 40) for at in (0, 29, 30, 59, 60, 89)] == [4, 4, 40, 40, 4, 4]
