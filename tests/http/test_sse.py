"""Streams of events as ASGI responses: comments in silence, one write at a time, errors before and behind the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agentrt.http import sse
from agentrt.http.errors import ApiError
from agentrt.http.sse import EventStream
from agentrt.runtime.log import Frame

END: Frame = (1, "response.completed", b'{"type":"response.completed"}')


class Client:
    """Takes what is sent; `heard` is set with every body."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.heard = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))
        await asyncio.sleep(0)  # as a server that waits for its socket
        self.heard.set()

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def hears(self, words: bytes, times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.text.count(words) < times:
                self.heard.clear()
                await self.heard.wait()


async def answer(client: Client, batches: AsyncGenerator[list[Frame], None]) -> None:
    await EventStream(batches, asyncio.Event())({"type": "http"}, client.receive, client.send)


async def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first event, and between two; the status comes once, and first."""
    monkeypatch.setattr(sse, "_KEEP_ALIVE_S", 0.02)
    client, first, second = Client(), asyncio.Event(), asyncio.Event()

    async def batches() -> AsyncGenerator[list[Frame], None]:
        await first.wait()
        yield [(0, "response.created", b"{}")]
        await second.wait()
        yield [END]

    answering = asyncio.create_task(answer(client, batches()))
    await client.hears(b": keep-alive\n\n", 2)
    first.set()
    await client.hears(b"event: response.created")
    await client.hears(b": keep-alive\n\n", client.text.count(b": keep-alive") + 2)
    second.set()
    await answering
    assert [message["type"] for message in client.sent].count("http.response.start") == 1
    assert client.sent[0]["type"] == "http.response.start"
    assert client.text.endswith(b'data: {"type":"response.completed"}\n\ndata: [DONE]\n\n')
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_an_error_before_the_first_event_has_a_status_of_its_own() -> None:
    async def batches() -> AsyncGenerator[list[Frame], None]:
        raise ApiError(503, "server_error", "later")
        yield []

    client = Client()
    with pytest.raises(ApiError):
        await answer(client, batches())
    assert not client.sent


async def test_an_error_behind_the_start_is_an_event() -> None:
    async def batches() -> AsyncGenerator[list[Frame], None]:
        yield [(0, "response.created", b"{}")]
        raise ApiError(503, "server_error", "later")

    client = Client()
    await answer(client, batches())
    assert b'"server_error"' in client.text
    assert client.text.endswith(b"data: [DONE]\n\n")


async def test_a_stream_without_comments_for_those_who_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is heard all the time needs none."""
    monkeypatch.setattr(sse, "_KEEP_ALIVE_S", 3600.0)

    async def batches() -> AsyncGenerator[list[Frame], None]:
        for number in range(50):
            yield [(number, "response.output_text.delta", b"{}")]
            await asyncio.sleep(0)
        yield [END]

    client = Client()
    await answer(client, batches())
    assert b"keep-alive" not in client.text
    assert client.text.count(b"event: response.output_text.delta") == 50
