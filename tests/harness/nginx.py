"""nginx in front of pods, with the configuration of deploy/nginx.conf; only its places are this machine's."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.harness.pod import Pod, ready
from tests.harness.redis_server import free_port
from tests.harness.runs import wait_until

_SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx.conf"
_TEMP = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """A load balancer over `pods`, on loopback. `changes`: what stands there and what shall, for controls."""

    def __init__(self, pods: list[Pod], *changes: tuple[str, str]) -> None:
        self.port = free_port()
        self._dir = Path(tempfile.mkdtemp(prefix="agentrt-nginx-"))
        text = _SHIPPED.read_text()
        servers = "".join(f"server 127.0.0.1:{pod.port} max_fails=1 fail_timeout=2s; " for pod in pods)
        text, found = re.subn(r"server pod-a:.*?;\s*server pod-b:.*?;", servers, text, flags=re.DOTALL)
        places = [
            ("worker_processes auto;", "worker_processes 1; daemon off;"),
            ("pid /run/nginx.pid;", f"pid {self._dir}/pid;"),
            ("error_log /var/log/nginx/error.log warn;", f"error_log {self._dir}/error.log warn;"),
            ("listen 8000;", f"listen 127.0.0.1:{self.port};"),
            ("access_log off;", "access_log off; " + "".join(f"{one}_temp_path {self._dir}/{one}; " for one in _TEMP)),
        ]
        for old, new in [*places, *changes]:
            found += text.count(old)
            text = text.replace(old, new)
        assert found == 1 + len(places) + len(changes), "deploy/nginx.conf is not what this expects"
        self._config = self._dir / "nginx.conf"
        self._config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """What it logged."""
        return (self._dir / "error.log").read_text()

    def __enter__(self) -> Nginx:
        nginx = shutil.which("nginx")
        assert nginx is not None
        command = [nginx, "-e", f"{self._dir}/error.log", "-p", str(self._dir), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: ready(self.url), 10, "nginx's first answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)
