"""What every adapter does with its connection: ends that do not come, silence, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentrt.models.anthropic import AnthropicModel
from agentrt.models.base import Finished, Model, TextDelta
from agentrt.models.openai import OpenAIChatModel, OpenAIModel
from tests.models import fake_anthropic, fake_chat, fake_openai
from tests.models.asking import KEY, REQUEST, collect, refused
from tests.models.fake_server import FakeServer, Reply, serve


@dataclass(frozen=True)
class Adapter:
    """One adapter, its fake provider, and how that says something and ends."""

    app: Any
    model: Callable[[str, float], Any]
    said: Callable[[str], Any]
    """A script that has said a text and goes on."""
    ended: Callable[[str], Reply]


ADAPTERS = {
    "anthropic": Adapter(
        fake_anthropic.fake_anthropic,
        lambda url, timeout_s: AnthropicModel("m", api_key=KEY, base_url=url, timeout_s=timeout_s),
        lambda text: fake_anthropic.Script().text(text),
        lambda text: fake_anthropic.Script().text(text).stopped("end_turn"),
    ),
    "openai": Adapter(
        fake_openai.fake_openai,
        lambda url, timeout_s: OpenAIModel("m", api_key=KEY, base_url=f"{url}/v1", timeout_s=timeout_s),
        lambda text: fake_openai.Script().text(text),
        lambda text: fake_openai.Script().text(text).completed(),
    ),
    "openai-chat": Adapter(
        fake_chat.fake_chat,
        lambda url, timeout_s: OpenAIChatModel("m", api_key=KEY, base_url=f"{url}/v1", timeout_s=timeout_s),
        lambda text: fake_chat.Script().text(text),
        lambda text: fake_chat.Script().text(text).finished("stop"),
    ),
}


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture
async def fake(adapter: Adapter) -> AsyncIterator[FakeServer]:
    async with serve(adapter.app) as server:
        yield server


@contextlib.asynccontextmanager
async def opened(adapter: Adapter, url: str, timeout_s: float = 5.0) -> AsyncIterator[Model]:
    model = adapter.model(url, timeout_s)
    try:
        yield model
    finally:
        await model.aclose()


@pytest.fixture
async def model(adapter: Adapter, fake: FakeServer) -> AsyncIterator[Model]:
    async with opened(adapter, fake.url) as model:
        yield model


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_without_end(adapter: Adapter, fake: FakeServer, model: Model, cut: bool) -> None:
    fake.script.append(Reply(adapter.said("a").frames, cut=cut))
    assert (await refused(model)).retryable


async def test_slow_first_byte_times_out(adapter: Adapter, fake: FakeServer) -> None:
    fake.script.append(Reply(hold_first=True))
    async with opened(adapter, fake.url, timeout_s=0.1) as model:
        error = await refused(model)
    assert error.retryable
    assert "timed out" in str(error)


async def test_slow_gap_times_out(adapter: Adapter, fake: FakeServer) -> None:
    fake.script.append(Reply(adapter.said("a").frames, hold_last=True))
    async with opened(adapter, fake.url, timeout_s=0.1) as model:
        assert (await refused(model)).retryable


async def test_nobody_listens(adapter: Adapter) -> None:
    async with opened(adapter, "http://127.0.0.1:1") as model:
        assert (await refused(model)).retryable


async def test_cancellation_closes_the_http_stream(adapter: Adapter, fake: FakeServer, model: Model) -> None:
    fake.script.append(Reply(adapter.said("a").frames, hold_last=True))
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(REQUEST):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(fake.disconnected.wait(), 5)


async def test_closing_early_closes_the_http_stream(adapter: Adapter, fake: FakeServer, model: Model) -> None:
    fake.script.append(Reply(adapter.said("a").frames, hold_last=True))
    events = model.stream(REQUEST)
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        assert await anext(events) == TextDelta("a")
    await asyncio.wait_for(fake.disconnected.wait(), 5)


async def test_connection_is_used_again(adapter: Adapter, fake: FakeServer, model: Model) -> None:
    fake.script += [adapter.ended("a"), adapter.ended("b")]
    await collect(model)
    await collect(model)
    assert fake.seen[0].port == fake.seen[1].port


async def test_complete_reply_survives_a_cut_after_it(adapter: Adapter, fake: FakeServer, model: Model) -> None:
    reply = adapter.ended("a")
    reply.cut = True
    fake.script.append(reply)
    last = (await collect(model))[-1]
    assert isinstance(last, Finished) and last.reason == "stop"
