"""The gate of the load test: what is missed is said, and nothing at all is a miss."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from loadtest.gate import Row, Threshold, judge, read
from loadtest.recovery import Times, recovered
from loadtest.shapes import ramp, soak, spike

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


@pytest.mark.parametrize("file", ["thresholds.toml", "thresholds-full.toml"])
def test_the_file_names_rows_that_the_scenarios_write(file: str) -> None:
    """A threshold of a row that was renamed would be missed for ever, or, without a minimum, kept for ever."""
    written = (ROOT / "loadtest" / "locustfile.py").read_text(encoding="utf-8")
    written = written.replace("{answer.status_code}", "429")
    thresholds = read(ROOT / "loadtest" / file)
    assert thresholds
    assert all(f'"{name}"' in written and threshold.requests_min > 0 for name, threshold in thresholds.items())


def test_shapes() -> None:
    """A ramp grows to all of its users and stays; a spike is ten times as many, for a third of the time."""
    assert [ramp(at, 100, 40) for at in (0, 40, 80, 99)] == [1, 20, 40, 40]
    assert [spike(at, 90, 40) for at in (0, 29, 30, 59, 60, 89)] == [4, 4, 40, 40, 4, 4]
    assert [soak(at, 1800, 40) for at in (0, 30, 60, 1799)] == [1, 20, 40, 40]


def spiked(after_ms: int) -> Times:
    """A hundred answers before a spike from 60 to 120 s, slow ones in it, and behind it ones that took so long."""
    times, taken = Times(), Counter[int]()
    for at_s, counts in ((59, {40: 90, 50: 10}), (119, {900: 100}), (149, {900: 50}), (180, {after_ms: 100})):
        taken.update(counts)
        times.add(at_s, taken)
    return times


def test_the_time_of_a_row_in_a_span() -> None:
    times = spiked(45)
    assert [times.p95_ms(*span) for span in ((0, 60), (60, 120), (150, 200), (1, 2))] == [50, 900, 45, None]
    assert (times.ended(0, 60), times.ended(60, 180)) == (100, 250)
    assert times.lines()[5] == "  50 to 60 s: 100 ended, p95 50 ms"


@pytest.mark.parametrize(("after_ms", "back"), [(45, True), (100, True), (110, False), (900, False)])
def test_a_spike_is_over_when_its_time_is_as_before(after_ms: int, back: bool) -> None:
    assert (recovered(spiked(after_ms), 60, 120) == []) == back


def test_a_run_that_shows_nothing_behind_the_spike_is_no_proof() -> None:
    assert recovered(Times(), 60, 120) == ["nothing ended before the spike, or from 30 s after it on"]
