"""A defect of the server costs the request that met it, not its neighbours on the same connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agentrt.app import PodApp, _error_response
from agentrt.telemetry import Telemetry
from tests.http.conftest import NO_TLS
from tests.models.fake_server import FakeServer, serve


async def broken(request: Request) -> Response:
    raise TypeError("unhashable type: 'list'")


async def sound(request: Request) -> Response:
    assert request.client is not None
    return Response(str(request.client.port))


async def cut(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise TypeError("no")

    return StreamingResponse(pieces())


def defective() -> FakeServer:
    """A pod's application around routes with defects."""
    routes = [Route(path, endpoint) for path, endpoint in (("/v1/x", broken), ("/ok", sound), ("/cut", cut))]
    inner = Starlette(routes=[*routes, Route("/operator/x", broken)], exception_handlers={Exception: _error_response})
    server = FakeServer("/none")
    server.app = cast(Any, PodApp(inner, "pod", Telemetry(), 1.0))
    return server


async def test_a_500_leaves_its_connection_open(caplog: pytest.LogCaptureFixture) -> None:
    """On a load balancer's connection the next request may be on its way already. The log has the trace."""
    limits = httpx2.Limits(max_connections=1)
    async with (
        serve(defective) as server,
        httpx2.AsyncClient(base_url=server.url, limits=limits, verify=NO_TLS) as client,
    ):
        before = await client.get("/ok")
        for path, kind in (("/v1/x", "application/json"), ("/operator/x", "application/problem+json")):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (500, kind)
            assert "unhashable" not in answer.text and "connection" not in answer.headers
        assert (await client.get("/ok")).text == before.text, "another connection"
    assert "Traceback" in caplog.text and "in broken" in caplog.text


async def test_an_answer_that_is_cut_is_seen_as_cut() -> None:
    """Half an answer must not look whole: its connection is closed."""
    async with serve(defective) as server, httpx2.AsyncClient(base_url=server.url, verify=NO_TLS) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/cut")
