"""Traces: one a run whatever pods work on it, by the conventions, without content; and nothing at all when off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from agentrt.errors import SettingsError
from agentrt.http.requests import Request
from agentrt.tracing import OFF, open_tracing
from tests.harness.pod import Pod
from tests.operate.otlp import Receiver, Seen

HEADERS = {"authorization": "Bearer x"}
SECRET = "canary-7f3a"


def env(receiver: Receiver, tmp_path: Path, **more: str) -> dict[str, str]:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    told |= {"AGENTRT_DEMO_DB": str(tmp_path / "demo.db"), "AGENTRT_LOG_FORMAT": "json"}
    return {**told, "AGENTRT_LEASE_MS": "1000", "AGENTRT_LOCK_TTL_MS": "1000", **more}


def say(pod: Pod, text: str, **more: object) -> dict[str, object]:
    body = {"model": "support", "input": text, **more}
    answer = httpx2.post(f"{pod.url}/v1/responses", json=body, headers=HEADERS, timeout=30)
    assert answer.status_code == 200, answer.text
    told: dict[str, object] = answer.json()
    return told


def named(name: str, spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.name.split(" ")[0] == name]


def test_one_run_is_one_trace_by_the_conventions_and_without_content(redis_url: str, tmp_path: Path) -> None:
    with Receiver() as receiver, Pod(redis_url, name="tracing", env=env(receiver, tmp_path)) as pod:
        told = say(pod, f"open a ticket: {SECRET}")
        receiver.until(lambda spans: named("invoke_agent", spans))
        spans = list(receiver.spans)
        (arrival,), (attempt,) = named("arrival", spans), named("invoke_agent", spans)
        assert attempt.name == "invoke_agent support" and attempt.parent == arrival.id
        assert len({span.trace for span in spans}) == 1
        assert attempt.attributes["gen_ai.operation.name"] == "invoke_agent"
        assert attempt.attributes["gen_ai.conversation.id"].startswith("conv_")
        assert str(told["id"]).endswith(attempt.attributes["agentrt.run"])
        chats, (call,) = named("chat", spans), named("execute_tool", spans)
        assert len(chats) == 2 and {chat.parent for chat in chats} == {attempt.id} == {call.parent}
        assert chats[0].attributes["gen_ai.provider.name"] == "scripted"
        assert chats[-1].attributes["gen_ai.usage.input_tokens"] > 0
        assert call.name == "execute_tool create_ticket"
        assert SECRET not in str(spans), "content is opt-in"


def test_a_run_that_changes_pods_stays_one_trace(redis_url: str, tmp_path: Path) -> None:
    with Receiver() as receiver:
        given = env(receiver, tmp_path)
        first = Pod(redis_url, name="first", env=given).start()
        say(first, "open a slow ticket 1: printer", background=True)
        (arrival,) = receiver.until(lambda spans: named("arrival", spans))
        first.kill()
        with Pod(redis_url, name="second", env=given):
            (attempt,) = receiver.until(lambda spans: named("invoke_agent", spans))
        first.stop()
    assert (arrival.pod, attempt.pod) == ("first", "second")
    assert (attempt.trace, attempt.parent) == (arrival.trace, arrival.id)
    assert attempt.attributes["agentrt.attempt"] == 2


def test_the_trace_of_the_client_goes_on_and_content_comes_when_asked_for(redis_url: str, tmp_path: Path) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    wanted = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    with Receiver() as receiver, Pod(redis_url, name="talking", env=env(receiver, tmp_path, **wanted)) as pod:
        body = {"model": "support", "input": f"open a ticket: {SECRET}"}
        headers = {**HEADERS, "traceparent": f"00-{trace}-{parent}-01"}
        httpx2.post(f"{pod.url}/v1/responses", json=body, headers=headers, timeout=30).raise_for_status()
        receiver.until(lambda spans: named("invoke_agent", spans))
    assert {span.trace for span in receiver.spans} == {trace}
    assert named("arrival", receiver.spans)[0].parent == parent
    assert (
        SECRET
        in json.loads(named("chat", receiver.spans)[0].attributes["gen_ai.input.messages"])[-1]["content"][0]["text"]
    )
    assert SECRET in named("execute_tool", receiver.spans)[0].attributes["gen_ai.tool.call.arguments"]


def test_a_chat_is_a_trace_too(redis_url: str, tmp_path: Path) -> None:
    trace, parent = "1bf7651916cd43dd8448eb211c80319d", "c7ad6b7169203332"
    with Receiver() as receiver, Pod(redis_url, name="chatting", env=env(receiver, tmp_path)) as pod:
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
        headers = {**HEADERS, "traceparent": f"00-{trace}-{parent}-01"}
        httpx2.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers, timeout=30).raise_for_status()
        (attempt,) = receiver.until(lambda spans: named("invoke_agent", spans))
        (arrival,) = receiver.until(lambda spans: named("arrival", spans))
    assert (arrival.trace, arrival.parent) == (trace, parent)
    assert (attempt.trace, attempt.parent) == (trace, arrival.id)


def test_a_receiver_that_is_away_costs_no_turn(redis_url: str, tmp_path: Path) -> None:
    with Receiver() as receiver:
        given = env(receiver, tmp_path)
    with Pod(redis_url, name="alone", env=given) as pod:
        assert say(pod, "count to 3")["status"] == "completed"


def test_off_is_nothing(tmp_path: Path) -> None:
    assert open_tracing("pod", {}) is OFF
    assert open_tracing("pod", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is OFF
    assert OFF.arrival("agent", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}) == ""
    assert OFF.run("", "a", "c", "r", 1) is OFF.chat("p", "m", "a") is OFF.tool("t", "i", "read_only")
    assert b"trace" not in Request("agent", 1, {}).encode()
    assert Request.decode(Request("agent", 1, {}, trace="00-1").encode()).trace == "00-1"
    # redis-py brings the SDK's metrics; the tracer and the exporter nobody brings.
    parts = "('opentelemetry.sdk.trace', 'opentelemetry.exporter')"
    code = f"import agentrt.cli, sys; sys.exit(any(name.startswith({parts}) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_without_the_exporter_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"agentrt\[otel\]"):
        open_tracing("pod", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
