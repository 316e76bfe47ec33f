"""Server-sent events: one write for all frames that are there, comments against idle cuts.

No `id:` and no `retry:` lines: the openai client fails at the next comment after one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress

from starlette.types import Receive, Scope, Send

from agentrt.http.errors import ApiError
from agentrt.runtime.log import Frame
from agentrt.runtime.response import TERMINAL_EVENTS
from agentrt.tasks import end

__all__ = ["EventStream", "named"]

_KEEP_ALIVE_S = 15.0
"""A client hears something at least this often: proxies cut what is idle for longer, many at 30 s."""
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
        way, ended = _Way(send, self._headers), False
        # A timer of its own: a wait with a limit around every batch would cost more than the batch.
        silence = asyncio.create_task(way.break_silence())
        try:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    ended = batch[-1][1] in TERMINAL_EVENTS
                    data = b"".join([self._render(frame) for frame in batch])
                    if data:
                        await way.write(data)
        except ApiError as error:
            if not way.begun:
                raise
            await way.write(b"data: %b\n\n" % bytes(error.response().body))
            ended = True
        finally:
            await end(silence)
        await way.write(b"data: [DONE]\n\n" if ended or not self._gone.is_set() else b"")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Way:
    """The way to one client: one write at a time, the response's start before the first of them."""

    def __init__(self, send: Send, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._one = asyncio.Lock()
        self._silent = False
        self.begun = False
        """Whether the client has the status."""

    async def write(self, data: bytes) -> None:
        self._silent = False
        async with self._one:
            if not self.begun:
                self.begun = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            if data:
                await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def break_silence(self) -> None:
        """Write a comment when nothing was written for half of `_KEEP_ALIVE_S` to all of it, until cancelled."""
        with suppress(OSError):  # the client has left, which its own watch finds
            while True:
                self._silent = True
                await asyncio.sleep(_KEEP_ALIVE_S / 2)
                if self._silent and not self._one.locked():
                    await self.write(b": keep-alive\n\n")


async def _left(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
