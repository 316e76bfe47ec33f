"""Prometheus and Alertmanager as processes, on loopback: what scrapes pods, judges rules, and tells of alerts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.harness.pod import Pod
from tests.harness.redis_server import free_port

__all__ = ["Alertmanager", "Prometheus"]

NAMESPACE = "agents"


class _Process:
    """A server with a folder and a port of its own, which answers `ready` once it is up."""

    ready = "/-/ready"

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"agentrt-{type(self).__name__.lower()}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx2.Client(timeout=10)
        """One for all: to make one costs more than to ask."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _start(self, *command: str) -> None:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if self._client.get(f"{self.url}{self.ready}").status_code == 200:
                    return
            except httpx2.HTTPError:
                if self._process.poll() is not None:
                    break
            time.sleep(0.05)
        raise RuntimeError(f"{command[0]} did not get ready: {(self.folder / 'log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._client.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Alertmanager(_Process):
    """A real one with a configuration file of the caller's."""

    def __init__(self, config: Path) -> None:
        super().__init__()
        self._config = config

    def __enter__(self) -> Alertmanager:
        self._start(
            "prometheus-alertmanager",
            f"--config.file={self._config}",
            f"--storage.path={self.folder}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        )
        return self

    def firing(self) -> list[dict[str, str]]:
        """The labels of every alert that it was told of and that has not ended."""
        answer = self._client.get(f"{self.url}/api/v2/alerts", params={"active": "true"})
        return [alert["labels"] for alert in answer.raise_for_status().json()]


class Prometheus(_Process):
    """A real one, which scrapes pods every `period_s` under the labels that a ServiceMonitor would add; or whatever a
    file says, `config`.
    """

    def __init__(
        self,
        pods: Iterable[Pod] = (),
        *,
        rules: Path | None = None,
        period_s: float = 1.0,
        alertmanager: Alertmanager | None = None,
        config: Path | None = None,
    ) -> None:
        super().__init__()
        self._config = config or self._written(pods, rules, period_s, alertmanager)

    def _written(
        self, pods: Iterable[Pod], rules: Path | None, period_s: float, alertmanager: Alertmanager | None
    ) -> Path:
        period = f"{int(period_s * 1000)}ms"
        job = {
            "job_name": "agentrt",
            "file_sd_configs": [{"files": [f"{self.folder}/targets.json"], "refresh_interval": "1s"}],
        }
        config: dict[str, Any] = {
            "global": {"scrape_interval": period, "scrape_timeout": period, "evaluation_interval": period},
            "rule_files": [str(rules)] if rules is not None else [],
            "scrape_configs": [job],
        }
        if alertmanager is not None:
            target = {"targets": [f"127.0.0.1:{alertmanager.port}"]}
            config["alerting"] = {"alertmanagers": [{"static_configs": [target]}]}
        written = self.folder / "prometheus.yml"
        written.write_text(yaml.safe_dump(config))
        self.watch({"agentrt": pods})
        return written

    def watch(self, services: Mapping[str, Iterable[Pod]], namespace: str = NAMESPACE) -> None:
        """Scrape these pods from now on, by the name of their Service; what is not named any more is forgotten."""
        groups = [
            {"targets": [f"127.0.0.1:{pod.port}" for pod in pods], "labels": {"namespace": namespace, "service": name}}
            for name, pods in services.items()
        ]
        fresh = self.folder / "targets.new"
        fresh.write_text(json.dumps(groups))
        os.replace(fresh, self.folder / "targets.json")

    def __enter__(self) -> Prometheus:
        self._start(
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
        )
        return self

    def get(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API."""
        answer = self._client.get(f"{self.url}/api/v1/{path}", params=query)
        return answer.raise_for_status().json()["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one element of it; None when there is none, or more than one."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def until(self, expression: str, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until an expression gives something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if found := self.ask(expression):
                    return found
            except httpx2.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{expression} gives nothing")
