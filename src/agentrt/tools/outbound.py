"""Requests to addresses that a model may choose: public ones only, checked where it cannot be got around.

The name is resolved once, every address of it must be public, and the connection goes to an address that was checked:
there is no second look-up that could answer otherwise. Every hop of a redirect is a connection of its own, so it is
checked too. TLS is verified against the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

from agentrt.errors import ToolError

__all__ = ["Bounded", "GuardedTransport", "Resolve", "TooLong", "guarded_client", "is_public"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The numeric addresses of a host, for a port."""

_V4_SPECIAL = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # the host of an Azure machine, in a public range
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
_V6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_V6_SPECIAL = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
]
_V4_WITHIN = [ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96")]
"""Mapped, and NAT64's well-known prefix: what counts is the IPv4 address in the last 32 bits."""


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the open internet: not private, local, special, or a disguise of such a one.

    For IPv6 it is the other way round: only what is known to be global is public. Raises `ValueError` for a name.
    """
    parsed: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if any(parsed in network for network in _V4_WITHIN):
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        else:
            return parsed in _V6_GLOBAL and not any(parsed in network for network in _V6_SPECIAL)
    return not any(parsed in network for network in _V4_SPECIAL)


class TooLong(httpx2.ReadError):
    """The response was longer than allowed. The request had arrived, and may have taken effect."""


class GuardedTransport(httpx2.AsyncBaseTransport):
    """A transport for HTTP tools: `httpx2.AsyncClient(transport=GuardedTransport(), trust_env=False)`.

    An address that is not public is a `ToolError`, so the model reads why, and nothing was sent. `allow` names
    networks that are wanted all the same (`10.1.2.0/24`). Responses are read up to `bytes_max` bytes, and asked for
    without compression: a compressed one is refused, since its true length is not known. `resolve` replaces the
    system's name look-up.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        bytes_max: int = 10 * 1024 * 1024,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._bytes_max = bytes_max
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or httpx2.create_ssl_context(),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Guarded([ipaddress.ip_network(network) for network in allow], resolve or _look_up),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises `ToolError` where its host is not allowed, else what httpx2 raises."""
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        request.headers["accept-encoding"] = "identity"
        url = request.url
        with _as_httpx2():
            answer = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        body = Bounded(answer.stream, self._bytes_max)
        response = httpx2.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)
        if response.headers.get("content-encoding", "identity") != "identity":
            await body.aclose()
            raise TooLong("the response is compressed, so its length cannot be told", request=request)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def guarded_client(transport: GuardedTransport | None = None, *, timeout_s: float = 20.0) -> httpx2.AsyncClient:
    """A client on a guarded transport: follows up to five redirects, reads no proxies or passwords from its
    environment. Make it in the application's `deps` and close it there."""
    return httpx2.AsyncClient(
        transport=transport or GuardedTransport(),
        timeout=timeout_s,
        trust_env=False,
        follow_redirects=True,
        max_redirects=5,
    )


class _Guarded(httpcore2.AsyncNetworkBackend):
    """Opens connections to checked addresses."""

    def __init__(self, allow: Sequence[_Network], resolve: Resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Look up, check, connect to the first address that answers."""
        try:
            async with asyncio.timeout(timeout):
                addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host}: the name look-up took too long") from error
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} has no address") from error
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise ToolError(f"The request was not made: {host} is not a public address.")
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Part of the interface."""
        await self._sockets.sleep(seconds)

    def _allowed(self, address: str) -> bool:
        if is_public(address):
            return True
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return any(parsed in network for network in self._allow)


class Bounded(httpx2.AsyncByteStream):
    """A response's body up to a number of bytes; raises `TooLong` behind it."""

    def __init__(self, stream: Any, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        with _as_httpx2():
            async for chunk in self._stream:
                size += len(chunk)
                if size > self._bytes_max:
                    raise TooLong(f"the response is longer than {self._bytes_max} bytes")
                yield chunk

    async def aclose(self) -> None:
        """Close what it is read from."""
        with _as_httpx2():
            await self._stream.aclose()


@contextmanager
def _as_httpx2() -> Iterator[None]:
    """Errors of the connections under the names that users of the client know; both libraries use the same ones."""
    try:
        yield
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise getattr(httpx2, type(error).__name__, httpx2.TransportError)(str(error)) from error
    except httpcore2.UnsupportedProtocol as error:
        raise ToolError("The request was not made: only http and https are allowed.") from error


async def _look_up(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]
