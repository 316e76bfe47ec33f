"""Exemplars: for those who ask for OpenMetrics a bucket of latency names a trace that it counted, if there are any."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from agentrt.tracing import exemplar
from tests.harness.pod import Pod
from tests.harness.prometheus import Prometheus
from tests.operate.otlp import Receiver
from tests.operate.test_tracing import env, named, say

LATENCIES = {"agentrt_turn_seconds", "agentrt_first_token_seconds"}


def metrics(pod: Pod, accept: str) -> tuple[str, str]:
    """The text, and its content type."""
    answer = httpx2.get(f"{pod.url}/metrics", headers={"accept": accept}, timeout=10)
    return answer.text, answer.headers["content-type"]


def exemplars(pod: Pod) -> dict[str, set[str]]:
    """Metric → the traces that its buckets name."""
    text, content_type = metrics(pod, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text") and text.endswith("# EOF\n")
    found: dict[str, set[str]] = {}
    for family in openmetrics.text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


@pytest.mark.needs("prometheus")
def test_a_bucket_names_its_trace_and_prometheus_takes_it(redis_url: str, tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Pod(redis_url, name="exemplary", env=env(receiver, tmp_path)) as pod,
        Prometheus([pod]) as prometheus,
    ):
        say(pod, "count to 3")
        receiver.until(lambda spans: named("invoke_agent", spans))
        (trace,) = {span.trace for span in receiver.spans}
        assert exemplars(pod) == {name: {trace} for name in LATENCIES}
        text, content_type = metrics(pod, "*/*")
        assert content_type.startswith("text/plain") and trace not in text
        assert list(text_string_to_metric_families(text))
        prometheus.until("agentrt_turn_seconds_count > 0")
        found = prometheus.get("query_exemplars", query="agentrt_turn_seconds_bucket", start="0", end="9999999999")
        assert [one["labels"] for series in found for one in series["exemplars"]] == [{"trace_id": trace}]


@pytest.mark.parametrize("sampler", ["always_off", None])
def test_a_run_that_is_not_sampled_has_none(redis_url: str, tmp_path: Path, sampler: str | None) -> None:
    """`None`: no tracing at all."""
    with Receiver() as receiver:
        given = env(receiver, tmp_path, OTEL_TRACES_SAMPLER=sampler) if sampler else {}
        with Pod(redis_url, name="discreet", env=given) as pod:
            say(pod, "count to 3")
            assert exemplars(pod) == {}
            text, _ = metrics(pod, "application/openmetrics-text")
    assert "agentrt_turn_seconds_bucket" in text and not receiver.spans


def test_what_is_no_context_names_nothing() -> None:
    assert exemplar("") is exemplar("nonsense") is None
    assert exemplar("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00") is None
    assert exemplar("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") == {
        "trace_id": "0af7651916cd43dd8448eb211c80319c"
    }
