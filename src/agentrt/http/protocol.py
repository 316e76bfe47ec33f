"""uvicorn's HTTP protocol with a bound on what comes before the body, which it has none of, and a sign of the first
request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_BYTES_MAX", "BoundedProtocol"]

HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers together; more is a 431."""
_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)
_BODY = (
    b'{"error":{"message":"the headers are too long","type":"invalid_request_error","param":null,'
    b'"code":"headers_too_large"}}'
)


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too long, while it still comes or when it is there."""

    _in_head = False
    _head_bytes = 0
    _refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: asyncio.Future[None] = self.loop.create_future()
        """Done when a first request was read, or the connection is gone."""

    def on_message_complete(self) -> None:
        """A request is here, to its end."""
        super().on_message_complete()
        self._told()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side, or this one, has closed it."""
        super().connection_lost(exc)
        self._told()

    def _told(self) -> None:
        if not self.asked.done():
            self.asked.set_result(None)

    def data_received(self, data: bytes) -> None:
        """More bytes of the connection. Those of a head that is not complete are counted."""
        if self._refused:
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is complete. What is raised here ends the parsing: see `send_400_response`."""
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES_MAX:
            self._refused = True
            raise ValueError("the head is too long")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or shall not be."""
        if self._refused:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _refuse(self) -> None:
        self._refused = True
        if not self.transport.is_closing():
            self.transport.write(_ANSWER % (len(_BODY), _BODY))
            self.transport.close()
