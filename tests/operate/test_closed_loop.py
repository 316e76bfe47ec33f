"""The closed loop, 30 times as fast: the rendered HPA follows a spike over real pods and comes back; nothing is cut."""

from __future__ import annotations

import itertools

import pytest

from tests.operate.closed_loop import PODS_MAX, PODS_MIN, VARIANTS, render, run

pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this platform")


@pytest.mark.needs("haproxy")
@pytest.mark.needs("prometheus")
@pytest.mark.timeout(600)
def test_replicas_follow_a_spike_and_come_back_and_no_turn_fails_and_no_stream_is_cut() -> None:
    report = run("hpa", speed=30.0, hold_s=1.0)
    assert not report.heard.failed, report.heard.failed[:5]
    assert not report.heard.cut, report.heard.cut[:5]
    assert report.heard.turns > 20 and report.heard.streams > 20
    assert report.peak == PODS_MAX and report.steps[-1] == PODS_MIN
    falls = [later - before for before, later in itertools.pairwise(report.steps) if later < before]
    assert falls == [-1] * (PODS_MAX - PODS_MIN), "one at a time"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_says_where_each_of_its_metrics_is_read(variant: str) -> None:
    source = render(variant, 10.0)
    asked = {metric["external"]["metric"]["name"] for metric in source.spec["metrics"]}
    assert asked == source.queries.keys() | source.fields.keys()
    assert (source.spec["minReplicas"], source.spec["maxReplicas"]) == (PODS_MIN, PODS_MAX)
