"""Reading a provider's reply: server-sent events from the bytes of a response, and what may go wrong on the way.

The SDKs make the request; their streams are not used, since they build an object of validated types for each event,
which costs several times what the rest of a reply costs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import httpx2
import orjson

from agentrt.errors import ModelError
from agentrt.models import failure
from agentrt.models.base import Finished, ModelEvent

__all__ = ["Frames", "Reply", "Streamed", "connection_failed", "replied"]

_FRAME_BYTES_MAX = 16 * 1024 * 1024
"""Longest single event: the last one of a Responses stream repeats the whole reply."""
_DRAIN_S = 0.25
"""How long the end of a complete reply is waited for, so that its connection can be used again."""

_AWAY = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""The request did not leave."""


class Reply(Protocol):
    """One streamed reply in a provider's wire format."""

    def feed(self, event: Mapping[str, Any]) -> Sequence[ModelEvent]:
        """Translate one event. Raises `ModelError` for an error or a malformed event."""
        ...

    def end(self) -> Sequence[ModelEvent]:
        """The stream is over: whatever is still to be said."""
        ...


class Streamed(Protocol):
    """What the SDKs give for a streamed request: the response, closed when the block is left."""

    response: httpx2.Response

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *error: Any) -> None: ...


class Frames:
    """Server-sent events, cut from bytes however they arrive. Gives the `data` of each; all else is left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that are whole now. Raises `ValueError` for one past all bounds."""
        buffer = self._rest + chunk
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *frames, self._rest = buffer.split(b"\n\n")
        if len(self._rest) > _FRAME_BYTES_MAX:
            raise ValueError("an event is too long")
        found = []
        for frame in frames:
            lines = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
            if lines:
                found.append(lines[0] if len(lines) == 1 else b"\n".join(lines))
        return found


async def replied(
    provider: str,
    request: Callable[[], Awaitable[Streamed]],
    reply: Reply,
    sdk_error: type[Exception],
    model_error: Callable[[Any], ModelError],
) -> AsyncGenerator[ModelEvent, None]:
    """The events of one reply. The last one is a `Finished`; every failure is a `ModelError`.

    `request` is called when somebody begins to read. `model_error` translates what the SDK raises, of type
    `sdk_error`, when the request fails.
    """
    frames = Frames()
    try:
        streamed = await request()
        async with streamed:
            chunks = streamed.response.aiter_bytes()
            async for chunk in chunks:
                for data in frames.feed(chunk):
                    for event in _events(provider, data, reply):
                        if isinstance(event, Finished):
                            await _drain(chunks)
                            yield event
                            return
                        yield event
            for event in reply.end():
                yield event
                if isinstance(event, Finished):
                    return
    except sdk_error as error:
        raise model_error(error) from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise connection_failed(provider, error) from None
    except ValueError as error:  # JSON or UTF-8 that does not decode
        raise failure.broken(provider, "malformed stream", error) from None
    raise failure.broken(provider, "the stream ended before the reply was complete")


def connection_failed(provider: str, cause: BaseException | None) -> ModelError:
    """The error for a connection that could not be made, or broke, or fell silent."""
    what = "timed out" if isinstance(cause, httpx2.TimeoutException) else "the connection failed"
    return failure.broken(provider, what, cause, refused=isinstance(cause, _AWAY))


def _events(provider: str, data: bytes, reply: Reply) -> Sequence[ModelEvent]:
    if data == b"[DONE]":
        return reply.end()
    event = orjson.loads(data)
    if not isinstance(event, dict):
        raise failure.broken(provider, "malformed event: not an object")
    return reply.feed(event)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows a complete reply. It cannot make the reply wrong, so failures do not matter here."""
    with contextlib.suppress(TimeoutError, httpx2.HTTPError, httpx2.StreamError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in chunks:
                pass
