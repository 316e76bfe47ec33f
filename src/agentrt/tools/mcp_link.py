"""Ways to an MCP server, and the one thing that matters about a call that failed: whether it may have arrived.

Over HTTP each call is a session of its own, since a connection that breaks takes its whole session with it, and the
calls beside it must not share that fate. Over stdio there is one session, for the server is one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, cast

import httpx2
import mcp_types as types
import orjson
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentrt.errors import ToolError
from agentrt.tasks import end
from agentrt.tools.outbound import Bounded, TooLong

__all__ = ["HttpLink", "Link", "Lost", "Rejected", "StdioLink", "Unreachable"]

log = logging.getLogger("agentrt.mcp")

_REJECTED = frozenset({types.INVALID_PARAMS, types.METHOD_NOT_FOUND})
_REFUSED = frozenset({401, 403, 404, 405, 406, 413, 415, 429})
"""Statuses by which a server, or the gateway before it, says that it does not take a request. 503 is none of them: a
gateway also says it of a server that went away with the call."""
_PAGES_MAX = 50
_RESPONSE_BYTES_MAX = 8 * 1024 * 1024
_CONNECT_S = 5.0
_START_S = 30.0


class Unreachable(Exception):
    """The server is not there; nothing was sent."""


class Rejected(Exception):
    """The server refused the call as such; it was not made."""


class Lost(ConnectionError):
    """The call was sent and nobody knows what became of it."""


class Link(Protocol):
    """A way to a server."""

    async def tools(self) -> list[types.Tool]:
        """What the server offers. Raises `Unreachable`."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]) -> types.CallToolResult:
        """Make a call. Raises `Unreachable`, `Rejected` or `Lost`."""
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


class HttpLink:
    """Streamable HTTP."""

    def __init__(self, url: str, headers: Mapping[str, str], transport: httpx2.AsyncBaseTransport | None) -> None:
        self._url = url
        self._headers = dict(headers)
        # An idle connection may be closed by the server just when a call goes out on it, and then nobody knows
        # whether it arrived. So connections are kept for the requests of one call, hardly longer.
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=1.0)
        self._transport = transport or httpx2.AsyncHTTPTransport(limits=limits, trust_env=False)
        self._mode = "auto"
        self._discovered: types.DiscoverResult | None = None

    async def tools(self) -> list[types.Tool]:
        watch = _Watch(self._transport)
        try:
            async with self._session(watch, "auto") as client:
                found = await _listed(client)
                if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    self._mode, self._discovered = client.protocol_version, client.session.discover_result
                else:
                    self._mode, self._discovered = "legacy", None
                return found
        except Exception as error:
            raise Unreachable(type(error).__name__) from error

    async def call(self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]) -> types.CallToolResult:
        watch = _Watch(self._transport)
        result: types.CallToolResult | None = None
        try:
            async with self._session(watch, self._mode) as client:
                result = await _called(client, name, arguments, meta)
        except Rejected:
            raise
        except Exception as error:
            if result is None and watch.refused:
                raise Rejected(f"HTTP status {watch.refused}") from error
            if result is None and not watch.left:
                raise Unreachable(type(error).__name__) from error
            if result is None:
                raise Lost(f"the call was lost: {type(error).__name__}") from error
        assert result is not None
        return result

    async def aclose(self) -> None:
        await self._transport.aclose()

    @contextlib.asynccontextmanager
    async def _session(self, watch: _Watch, mode: str) -> AsyncIterator[Client]:
        timeout = httpx2.Timeout(None, connect=_CONNECT_S, pool=_CONNECT_S)  # the runtime bounds the call
        async with httpx2.AsyncClient(transport=watch, headers=self._headers, timeout=timeout, trust_env=False) as http:
            transport = streamable_http_client(self._url, http_client=http)
            prior = self._discovered if mode == self._mode else None
            async with Client(transport, mode=mode, prior_discover=prior, cache=None) as client:
                yield client


class _Watch(httpx2.AsyncBaseTransport):
    """Notices whether a tool call has left, or was refused, and bounds what comes back. The transport below is shared,
    and stays."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.left = False
        self.refused = 0
        """The status that refused the call, when no other try of it has left."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        body = await request.aread()
        is_call = bool(body) and orjson.loads(body).get("method") == "tools/call"
        before, self.left = self.left, self.left or is_call
        try:
            response = await self._inner.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, ToolError):
            self.left = before
            raise
        if is_call and not before and response.status_code in _REFUSED:
            self.left, self.refused = False, response.status_code
        body_of = Bounded(response.stream, _RESPONSE_BYTES_MAX)
        response.stream = body_of
        if response.headers.get("content-encoding", "identity") != "identity":
            await body_of.aclose()
            raise TooLong("the response is compressed, so its length cannot be told", request=request)
        return response

    async def aclose(self) -> None:
        """Not ours to close."""


class StdioLink:
    """A server that is a child process, for development: started when it is needed, again when it has ended."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._params = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(env) or None)
        self._opened: asyncio.Future[Client] | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def tools(self) -> list[types.Tool]:
        try:
            return await _listed(await self._client())
        except Exception as error:
            await self.aclose()
            raise Unreachable(type(error).__name__) from error

    async def call(self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]) -> types.CallToolResult:
        client = await self._client()
        try:
            return await _called(client, name, arguments, meta)
        except Rejected:
            raise
        except Exception as error:
            if not isinstance(error, MCPError) or error.code == types.CONNECTION_CLOSED:
                await self.aclose()
            raise Lost(f"the call was lost: {type(error).__name__}") from error

    async def aclose(self) -> None:
        self._stop.set()
        owner, self._owner = self._owner, None
        if owner is not None:
            await asyncio.wait({owner}, timeout=_CONNECT_S)
            await end(owner)

    async def _client(self) -> Client:
        if self._owner is None or self._owner.done():
            loop = asyncio.get_running_loop()
            self._stop, self._opened = asyncio.Event(), loop.create_future()
            self._owner = loop.create_task(self._own(self._opened, self._stop))
        assert self._opened is not None
        try:
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(self._opened)
        except TimeoutError:
            raise Unreachable("the process did not answer") from None

    async def _own(self, opened: asyncio.Future[Client], stop: asyncio.Event) -> None:
        """Hold the session open: what the SDK opens must be closed by the task that opened it."""
        try:
            async with Client(self._params, cache=None) as client:
                opened.set_result(client)
                await stop.wait()
        except Exception as error:  # noqa: BLE001 - groups of whatever the SDK's tasks met; the callers are told
            log.warning("an MCP server over stdio ended: %s", type(error).__name__)
        finally:
            if not opened.done():
                opened.set_exception(Unreachable("the process did not start"))
                opened.exception()  # whoever waited for it may have gone


async def _listed(client: Client) -> list[types.Tool]:
    found: list[types.Tool] = []
    cursor: str | None = None
    for _ in range(_PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


async def _called(
    client: Client, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]
) -> types.CallToolResult:
    try:
        return await client.call_tool(name, arguments, meta=cast(types.RequestParamsMeta, dict(meta)))
    except MCPError as error:
        if error.code in _REJECTED:
            raise Rejected(error.error.message) from error
        raise
