"""A fake provider on loopback: the extractor that answers about each message as it was told to. Real HTTP, real SSE."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tests.models.fake_openai import Script


class Extractor:
    """`answers` by message text; what is not there states nothing. `status` other than 200: what it answers instead."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status = 200
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        """Cleared: answers are held back."""
        self.waiting = threading.Semaphore(0)
        """Released once for each question that comes while answers are held back."""
        extractor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                extractor._answer(self)

            def log_message(self, *args: object) -> None:  # type: ignore[override]
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["content-length"])))
        text = json.loads(body["input"][-1]["content"][0]["text"])["message"]
        self.asked.append(text)
        if not self.open.is_set():
            self.waiting.release()
            self.open.wait(60)
        if self.status != 200:
            raw = json.dumps({"error": {"message": "not now", "type": "x", "param": None, "code": "x"}}).encode()
            self._send(http, self.status, "application/json", raw)
            return
        answer = self.answers.get(text, [])
        arguments = answer if isinstance(answer, str) else json.dumps({"facts": answer})
        frames = Script().call("c1", "record_facts", arguments).completed().frames
        self._send(http, 200, "text/event-stream", b"".join(frames))

    @staticmethod
    def _send(http: BaseHTTPRequestHandler, status: int, kind: str, raw: bytes) -> None:
        http.send_response(status)
        http.send_header("content-type", kind)
        http.send_header("content-length", str(len(raw)))
        http.end_headers()
        http.wfile.write(raw)

    def __enter__(self) -> Extractor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
