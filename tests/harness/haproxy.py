"""HAProxy in front of pods, with the configuration of deploy/haproxy.cfg; only its places are this machine's."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.harness.pod import Pod, ready
from tests.harness.redis_server import free_port
from tests.harness.runs import wait_until

_SHIPPED = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"


class HAProxy:
    """A load balancer over `pods`, on loopback."""

    def __init__(self, pods: list[Pod]) -> None:
        self.port = free_port()
        self._pods = pods
        self._config = Path(tempfile.mkstemp(prefix="agentrt-haproxy-", suffix=".cfg")[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HAProxy:
        servers = "\n".join(f"    server {pod.name} 127.0.0.1:{pod.port} check" for pod in self._pods)
        text = _SHIPPED.read_text()
        for pattern, new in (
            (r"resolvers docker\n(    .*\n)+\n", ""),
            (r" resolvers docker init-addr none", ""),
            (r"maxconn 20000", "maxconn 4000"),  # each takes two open files, of which this machine may not have 40,000
            (r"bind :8000", f"bind 127.0.0.1:{self.port}"),
            (r"    server pod-a .*\n    server pod-b .*", servers),
        ):
            text, found = re.subn(pattern, new, text)
            assert found == 1, f"deploy/haproxy.cfg is not what this expects: {pattern}"
        self._config.write_text(text)
        self._process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: ready(self.url), 10, "HAProxy's first answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._config.unlink()
