"""As much of a Kubernetes API server as pods need that keep an annotation current: TLS, a token, PATCH."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness.tls import Authority

NAMESPACE = "agents"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that does not trust this server leaves during the handshake."""


class ApiServer:
    """Listens on a port of its own until the end of the block. Only a merge patch of an annotation is known to it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.account = folder / "account"
        """What is mounted into pods: token, CA, namespace."""
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(authority.ca.read_bytes())
        (self.account / "namespace").write_text(NAMESPACE)
        self.turn_token("token-0")
        self.refuse = 0
        """A status to answer instead."""
        self.writes: list[tuple[str, str, str]] = []
        """(pod, annotation, value), in order."""
        self.refused: list[int] = []
        self._came = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        context = authority.server("IP:127.0.0.1")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a pod; `SERVICE_ACCOUNT` is for `tests.harness.pod_in_kubernetes`."""
        port = str(self._server.server_address[1])
        told = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        return {**told, "SERVICE_ACCOUNT": str(self.account), "AGENTRT_DELETION_COST_S": "1"}

    def turn_token(self, token: str) -> None:
        """Only this token is good from now on; pods find it where the old one was."""
        (self.account / "token").write_text(token)

    def cost(self, pod: str) -> int:
        """A pod's deletion cost; 0 where it told none, as Kubernetes has it."""
        return next((int(value) for name, _, value in reversed(self.writes) if name == pod), 0)

    def until(self, condition: Callable[[ApiServer], bool], timeout_s: float = 60.0) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + timeout_s
        with self._came:
            while not condition(self):
                left = deadline - time.monotonic()
                if left <= 0 or not self._came.wait(left):
                    raise AssertionError(f"writes {self.writes[-5:]}, refused {self.refused[-5:]}")

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        if self.refuse:
            return self.refuse
        if headers.get("authorization") != f"Bearer {(self.account / 'token').read_text()}":
            return 401
        if headers.get("content-type") != "application/merge-patch+json":
            return 415
        head, _, pod = path.rpartition("/")
        if head != f"/api/v1/namespaces/{NAMESPACE}/pods":
            return 404
        ((name, value),) = json.loads(body)["metadata"]["annotations"].items()
        self.writes.append((pod, name, value))
        return 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with server._came:
                    status = server._take(self.path, {name.lower(): told for name, told in self.headers.items()}, body)
                    if status != 200:
                        server.refused.append(status)
                    server._came.notify_all()
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        return Handler

    def __enter__(self) -> ApiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
