"""The floor: the least that a stateless chat endpoint on Redis can do, and nothing of what makes a turn safe.

Starlette and uvicorn (uvloop, httptools) as in a pod, redis-py as most people use it, orjson as in a pod. A turn is two
pipelines: read the header and the last 50 items; append two items and bump `rev`. The model is an echo that takes no
time. There is no lease, no fence, no idempotency, no event log, no check of the input, and items are spliced, never
parsed: a real endpoint costs more than this.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from loadtest.pace import pieces

__all__ = ["WINDOW", "create_app", "floor_keys"]

WINDOW = 50
_POOL_MAX = 64
"""More than the concurrency of any slice: nobody waits for a connection."""


def floor_keys(conversation: str) -> tuple[str, str]:
    """The keys of a conversation: its header and its items."""
    return f"floor:{conversation}", f"floor:{conversation}:items"


def message(role: str, text: str) -> bytes:
    """An item in the shape in which a pod stores it."""
    kind = "input_text" if role == "user" else "output_text"
    return orjson.dumps(
        {
            "type": "message",
            "role": role,
            "status": "completed",
            "content": [{"type": kind, "text": text, "annotations": [], "logprobs": []}],
            "id": f"msg_{secrets.token_hex(11)}",
        }
    )


def create_app(redis_url: str) -> Starlette:
    """The application: one route."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pool = redis.asyncio.ConnectionPool.from_url(redis_url, max_connections=_POOL_MAX)
        app.state.redis = redis.asyncio.Redis(connection_pool=pool)
        yield
        await app.state.redis.aclose()
        await pool.aclose()

    return Starlette(routes=[Route("/v1/responses", turn, methods=["POST"])], lifespan=lifespan)


async def turn(request: Request) -> Response:
    """One turn: read, echo, append."""
    client = request.app.state.redis
    body = orjson.loads(await request.body())
    header, items = floor_keys(body["conversation"])
    async with client.pipeline(transaction=False) as read:
        read.hgetall(header)
        read.lrange(items, -WINDOW, -1)
        state, window = await read.execute()
    if body.get("stream"):
        return StreamingResponse(_spoken(body["input"]), media_type="text/event-stream")
    answer = f"echo: {body['input']}"
    async with client.pipeline(transaction=False) as write:
        write.rpush(items, message("user", body["input"]), message("assistant", answer))
        write.hincrby(header, "rev", 1)
        _, rev = await write.execute()
    result = {"id": state[b"id"].decode(), "output_text": answer, "items": len(window), "rev": rev}
    return Response(orjson.dumps(result), media_type="application/json")


async def _spoken(text: str) -> AsyncIterator[bytes]:
    """The paced model's pieces, an event each; nothing is kept of them."""
    for piece in pieces(text):
        if isinstance(piece, float):
            await asyncio.sleep(piece)
        else:
            yield b"data: %b\n\n" % orjson.dumps({"type": "response.output_text.delta", "delta": piece})


def main() -> None:
    """Serve on loopback until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis-url", required=True)
    args = parser.parse_args()
    uvicorn.run(
        create_app(args.redis_url),
        host="127.0.0.1",
        port=args.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
