"""What the fake providers share: a scripted SSE endpoint on a real uvicorn, on a loopback port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


@dataclass
class Reply:
    """One scripted reply. `cut` closes the connection after the frames instead of ending the body.

    `hold_first` waits before the status line, `hold_last` after the frames; both until `release` or a disconnect.
    """

    frames: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    cut: bool = False
    hold_first: bool = False
    hold_last: bool = False


@dataclass
class Seen:
    """A request that came in."""

    body: dict[str, Any]
    raw: bytes
    headers: dict[str, str]
    port: int
    """The client's port: the same for two requests on one connection."""


class _Stream(Response):
    def __init__(self, fake: FakeServer, reply: Reply) -> None:
        super().__init__()
        self._fake, self._reply = fake, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = self._reply
        if reply.hold_first:
            await self._hold(receive)
        headers = {"content-type": "text/event-stream", **reply.headers}
        start = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": start})
        for frame in reply.frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        if reply.hold_last:
            await self._hold(receive)
        if not reply.cut:  # uvicorn closes the connection of an app that returns in the middle of a body
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hold(self, receive: Receive) -> None:
        gone = asyncio.ensure_future(self._disconnect(receive))
        released = asyncio.ensure_future(self._fake.release.wait())
        await asyncio.wait((gone, released), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self._fake.disconnected.set()
        gone.cancel()
        released.cancel()

    async def _disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


class FakeServer:
    """Answers each request with the next reply of `script`; 500 when there is none left."""

    def __init__(self, path: str) -> None:
        self.script: list[Reply] = []
        self.seen: list[Seen] = []
        self.release = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.url = ""
        self.app = Starlette(routes=[Route(path, self._answer, methods=["POST"])])

    def choose(self, seen: Seen) -> Reply | None:
        """The reply to a request."""
        self.seen.append(seen)
        return self.script.pop(0) if self.script else None

    async def _answer(self, request: Request) -> Response:
        raw = await request.body()
        assert request.client is not None
        reply = self.choose(Seen(json.loads(raw), raw, dict(request.headers), request.client.port))
        if reply is None:
            return JSONResponse({"error": {"message": "the script is over"}}, 500)
        if reply.body is not None:
            return JSONResponse(reply.body, reply.status, reply.headers)
        return _Stream(self, reply)


@contextlib.asynccontextmanager
async def serve(make: Callable[[], FakeServer]) -> AsyncIterator[FakeServer]:
    """Run the fake on a free port; no signal handlers, no main loop to wait for."""
    fake = make()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(fake.app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    fake.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        yield fake
    finally:
        fake.release.set()
        for listener in server.servers:  # `shutdown` does the same and sleeps
            listener.close()
        sock.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.gather(*server.server_state.tasks)


def sse(event: str, data: object) -> bytes:
    """One event, without a name where that is empty; `data` that is a string goes out as it is."""
    text = data if isinstance(data, str) else json.dumps(data)
    if not event:
        return f"data: {text}\n\n".encode()
    return f"event: {event}\ndata: {text}\n\n".encode()
