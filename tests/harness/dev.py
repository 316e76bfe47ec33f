"""`make run` as a process: the supervisor, its private Redis and its pods on one port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.harness.redis_server import free_port

_READY = re.compile(r"(pod-[\w-]+)(?: \(| )pid (\d+)\)?")


class Dev:
    """Starts `agentrt dev` and keeps track of which pods live, by what it prints."""

    def __init__(self, folder: Path, target: str = "agentrt.demo:agents", **env: str) -> None:
        self.port = free_port()
        self._target = target
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTHROPIC_"))}
        self._env = {
            **clean,
            "AGENTRT_DATA_DIR": str(folder / "data"),
            "PYTHONUNBUFFERED": "1",
            "AGENTRT_DEMO_DB": str(folder / "demo.db"),
            **env,
        }
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._pods: dict[str, int] = {}
        self.lines: list[str] = []
        self.kills = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Dev:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentrt.cli", "dev", "--port", str(self.port), self._target],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.wait_for(2, 30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reading.join(5)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line)
                if line.startswith("pods: "):
                    self._pods.update({name: int(pid) for name, pid in _READY.findall(line)})
                elif match := re.match(r"(pod-[\w-]+) \(pid (\d+)\) died", line):
                    self._pods.pop(match[1], None)
                elif match := re.match(r"(pod-[\w-]+) pid (\d+) ready", line):
                    self._pods[match[1]] = int(match[2])
                self._changed.notify_all()

    def pods(self) -> dict[str, int]:
        """The pods that are ready, by name."""
        with self._changed:
            return dict(self._pods)

    def wait_for(self, count: int, timeout_s: float) -> dict[str, int]:
        """Wait until `count` pods are ready."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while len(self._pods) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise RuntimeError("".join(self.lines[-40:]))
            return dict(self._pods)

    def kill(self, name: str) -> bool:
        """SIGKILL a pod, if the other one is ready."""
        with self._changed:
            if len(self._pods) < 2 or name not in self._pods:
                return False
            pid = self._pods.pop(name)
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        return True
