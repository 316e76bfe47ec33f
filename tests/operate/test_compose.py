"""The processes of `compose.yaml`, with its commands, settings and files; hosts and ports are this machine's, and pods
do not drain, so that the tests end sooner.

Left to an engine: the images, the mounts, and Grafana (whose dashboards `test_dashboards` asks of a real Prometheus).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.harness.haproxy import HAProxy
from tests.harness.pod import Pod
from tests.harness.prometheus import Prometheus
from tests.harness.redis_server import RedisServer
from tests.harness.runs import wait_until

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
PODS = [name for name in SERVICES if name.startswith("pod-")]


def command_of_the_image() -> list[str]:
    """What a pod of compose runs: it names no command, so it is the Dockerfile's."""
    (arguments,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return list(json.loads(arguments))


def settings(name: str, redis_url: str) -> dict[str, str]:
    """A pod's environment; what compose takes from whoever starts it is empty, as its defaults are."""
    given = {key: "" if value.startswith("${") else value for key, value in SERVICES[name]["environment"].items()}
    assert given["AGENTRT_REDIS_URL"] == "redis://redis:6379/0"
    return {**given, "AGENTRT_REDIS_URL": redis_url}


@dataclass(frozen=True)
class Composed:
    redis: RedisServer
    pods: Mapping[str, Pod]
    api: str
    prometheus: Prometheus


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    program, *options = SERVICES["redis"]["command"]
    command, target, *_ = command_of_the_image()
    assert (program, command) == ("redis-server", "serve")
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(*options))
        pods = {
            name: stack.enter_context(Pod(redis.url, name=name, target=target, env=settings(name, redis.url)))
            for name in PODS
        }
        api = stack.enter_context(HAProxy(list(pods.values()))).url
        text = (ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8")
        for name, pod in pods.items():
            text = text.replace(f"{name}:8000", f"127.0.0.1:{pod.port}")
        config = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
        config.write_text(text, encoding="utf-8")
        rules = ROOT / "helm" / "agentrt" / "files" / "alerts.yaml"
        (config.parent / "alerts.yaml").write_bytes(rules.read_bytes())
        yield Composed(redis, pods, api, stack.enter_context(Prometheus(config=config)))


@pytest.mark.needs("haproxy")
@pytest.mark.needs("prometheus")
def test_a_conversation_over_both_pods_and_a_restart_of_redis(composed: Composed) -> None:
    with httpx2.Client(base_url=composed.api, timeout=30, headers={"connection": "close"}) as client:
        conversation = client.post("/v1/conversations", json={}).json()["id"]
        served = set()
        for said in ("one", "two", "three"):
            body = {"model": "echo", "input": said, "conversation": conversation}
            answer = client.post("/v1/responses", json=body).raise_for_status()
            assert answer.json()["status"] == "completed"
            served.add(answer.headers["x-agentrt-pod"])
        assert served == set(PODS)
        composed.redis.kill()
        composed.redis.start()
        items = f"/v1/conversations/{conversation}/items?order=asc"
        wait_until(lambda: client.get(items).status_code == 200, 20, "pods that have Redis again")
        kept = client.get(items).raise_for_status().json()["data"]
    assert [item["content"][0]["text"] for item in kept if item["role"] == "user"] == ["one", "two", "three"]


@pytest.mark.needs("haproxy")
@pytest.mark.needs("prometheus")
def test_prometheus_sees_both_pods_and_has_the_alerts(composed: Composed) -> None:
    composed.prometheus.until('count(up{namespace="compose"} == 1) == 2')
    groups = composed.prometheus.get("rules")["groups"]
    alerts = {rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"}
    assert "AgentrtRedisDown" in alerts
    assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
