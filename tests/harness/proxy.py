"""A byte proxy in front of a TCP server: delays, holds, drops. One asyncio relay, no kernel tricks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress


class ByteProxy:
    """Relays to `port`. What comes back from the server goes through `on_reply`: it returns the bytes to pass on, or
    None to cut the connection without passing them on. `delay_s` holds every reply; `blackhole` swallows everything.
    `listen` is the port of its own, any by default.
    """

    def __init__(self, port: int, listen: int = 0, ssl: ssl.SSLContext | None = None) -> None:
        """`ssl`: speak TLS to clients."""
        self._target = port
        self._listen = listen
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.blackhole = False
        self.on_reply: Callable[[bytes], bytes | None] = lambda data: data
        self.connections = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._tasks)

    async def __aenter__(self) -> ByteProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._listen, ssl=self._ssl)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection now."""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        upstream = None
        try:
            up_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            forth = asyncio.create_task(self._relay(reader, upstream, back=False))
            back = asyncio.create_task(self._relay(up_reader, writer, back=True))
            try:
                await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                forth.cancel()
                back.cancel()
                await asyncio.gather(forth, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.blackhole:
                    continue
                if back:
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    passed = self.on_reply(data)
                    if passed is None:
                        return
                    data = passed
                writer.write(data)
                await writer.drain()
