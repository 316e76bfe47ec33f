"""One framework as a process: `python -m loadtest.peers.server NAME --port N --redis-url U --postgres-url U`.

Starlette and uvicorn (uvloop, httptools) as for the floor. A turn is what the framework itself does for a message of a
session that it keeps; its model is an echo that takes no time. Runs in the framework's own environment.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["Peer"]


class Peer(Protocol):
    """A framework. Its module has a class of this shape by the name `Framework`."""

    async def start(self, stack: AsyncExitStack, redis_url: str, postgres_url: str) -> None: ...

    async def prefill(self, session: str, texts: list[tuple[str, str]]) -> None:
        """Give a new session these turns: (what the user said, what was answered)."""
        ...

    async def turn(self, session: str, text: str) -> str:
        """The answer to one message."""
        ...


def create_app(peer: Peer, redis_url: str, postgres_url: str) -> Starlette:
    """Two routes: turns, and sessions made for a slice."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await peer.start(stack, redis_url, postgres_url)
            yield

    async def turn(request: Request) -> Response:
        body = orjson.loads(await request.body())
        answer = await peer.turn(body["conversation"], body["input"])
        return Response(orjson.dumps({"output_text": answer}), media_type="application/json")

    async def prefill(request: Request) -> Response:
        body = orjson.loads(await request.body())
        for session in body["sessions"]:
            await peer.prefill(session, [(body["text"], f"echo: {body['text']}")] * body["turns"])
        return Response(b"{}", media_type="application/json")

    routes = [Route("/v1/responses", turn, methods=["POST"]), Route("/prefill", prefill, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve on loopback until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--postgres-url", default="")
    args = parser.parse_args()
    peer: Peer = importlib.import_module(f"loadtest.peers.{args.name}").Framework()
    uvicorn.run(
        create_app(peer, args.redis_url, args.postgres_url),
        host="127.0.0.1",
        port=args.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
