"""Pods as processes: `agentrt serve`, as in production."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx2

from tests.harness.redis_server import free_port
from tests.harness.warm import WarmProcess

_ASKING = httpx2.Client(timeout=2, headers={"connection": "close"})
"""One for all: to make one costs 100 ms of CPU, and pods are asked every 20 ms while they start."""


def ready(url: str) -> bool:
    """Whether /readyz says 200 there now."""
    try:
        return _ASKING.get(f"{url}/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


class Pod:
    """One pod on a port of its own. `env` overrides the environment; `entry` replaces `-m agentrt.cli`.

    `cold`: it begins from nothing, as in production, also where others are forks.
    """

    warm = False
    """Whether pods are forks of a process that has imported what they need, see `tests.harness.warm`."""

    def __init__(
        self,
        redis_url: str,
        *,
        target: str = "agentrt.demo:agents",
        name: str = "pod",
        port: int | None = None,
        env: dict[str, str] | None = None,
        entry: tuple[str, ...] = ("-m", "agentrt.cli"),
        cold: bool = False,
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.log = Path(tempfile.mkstemp(prefix=f"agentrt-{name}-", suffix=".log")[1])
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTHROPIC_"))}
        clean = {"AGENTRT_DRAIN_S": "0", "AGENTRT_DRAIN_RUNS_S": "0", **clean}
        self._env = {**clean, "AGENTRT_REDIS_URL": redis_url, "AGENTRT_POD": name, **(env or {})}
        self._command = [*entry, "serve", target, "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None
        self._cold = cold or not self.warm or "PYTHONPATH" in (env or {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> Pod:
        """Start the process; `wait` until it is ready."""
        if self._cold:
            command = [sys.executable, *self._command]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        else:
            _, module, *arguments = self._command
            self._process = WarmProcess(module, arguments, self._env, self.log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.ready():
                return
            if not self.alive:
                raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not get ready: {self.log.read_text()[-2000:]}")

    def ready(self) -> bool:
        """Whether /readyz says 200 now."""
        return ready(self.url)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def leave(self, timeout_s: float) -> bool:
        """SIGTERM, and whether it ended by itself within the time; if not it is killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.leave(10)
        self.log.unlink(missing_ok=True)

    def __enter__(self) -> Pod:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
