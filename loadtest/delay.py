"""A relay to Redis that makes every reply late by the same time, however many are on their way: a longer cable.

(The proxy of the tests holds one piece after the other, so an answer that came in two pieces would be late twice.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial

__all__ = ["DelayedRedis"]


class DelayedRedis:
    """Listens on a port of its own while the context lasts; `delay_s` may be changed at any time."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self) -> DelayedRedis:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        with suppress(OSError, asyncio.CancelledError):
            redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._target)
            replies = asyncio.create_task(self._delay(redis_reader, writer))
            try:
                while data := await reader.read(65_536):
                    redis_writer.write(data)
            finally:
                replies.cancel()
                redis_writer.close()
                writer.close()
        self._relays.discard(relay)

    async def _delay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, late = asyncio.get_running_loop(), deque[bytes]()
        while data := await reader.read(65_536):
            late.append(data)
            loop.call_later(self.delay_s, partial(_pass_on, late, writer))


def _pass_on(late: deque[bytes], writer: asyncio.StreamWriter) -> None:
    """The oldest piece, whichever timer came first: the order stays."""
    writer.write(late.popleft())
