"""Server-sent events: one write for all frames that are there, comments against idle cuts.

No `id:` and no `retry:` lines: the openai client fails at the next comment after one (API.md, trap 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.types import Receive, Scope, Send

from agentrt.http.errors import ApiError
from agentrt.runtime.log import Frame
from agentrt.runtime.response import TERMINAL_EVENTS

__all__ = ["EventStream", "named"]

_KEEP_ALIVE_S = 15.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def named(frame: Frame) -> bytes:
    """An event under its own name, as `/v1/responses` sends it."""
    _, kind, data = frame
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


class EventStream:
    """An ASGI response that sends frames as they come. A client that goes away ends the sending, never the run.

    Nothing is sent before there is something to say: until then an error is still an answer with its own status.
    `render` gives the bytes of a frame, none for one that is not for this client; what it raises ends the stream.
    """

    def __init__(
        self,
        batches: AsyncGenerator[list[Frame], None],
        gone: asyncio.Event,
        render: Callable[[Frame], bytes] = named,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._batches = batches
        self._render = render
        self._headers = _HEADERS + [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._gone = gone
        """Set when the pod leaves: a stream that ends behind that without its end goes on elsewhere."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the ASGI signature
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending

    async def _send(self, send: Send) -> None:
        started = ended = False

        async def begin() -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})

        async with aclosing(self._batches) as batches:
            following: asyncio.Task[list[Frame]] | None = None
            try:
                while True:
                    following = asyncio.ensure_future(anext(batches))
                    while not (await asyncio.wait({following}, timeout=_KEEP_ALIVE_S))[0]:
                        await begin()
                        await _write(send, b": keep-alive\n\n")
                    try:
                        batch = following.result()
                    except StopAsyncIteration:
                        break
                    ended = batch[-1][1] in TERMINAL_EVENTS
                    data = b"".join([self._render(frame) for frame in batch])
                    if data:
                        await begin()
                        await _write(send, data)
            except ApiError as error:
                if not started:
                    raise
                await _write(send, b"data: %b\n\n" % bytes(error.response().body))
                ended = True
            finally:
                if following is not None and not following.done():
                    following.cancel()
                    with suppress(asyncio.CancelledError):
                        await following
        await begin()
        if ended or not self._gone.is_set():
            await _write(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _left(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
