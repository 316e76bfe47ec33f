"""A pod as in production between an unmodified openai client and fake providers: what the client sees of failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import openai
import pytest

from tests.harness.pod import Pod
from tests.http.conftest import NO_TLS
from tests.models import fake_anthropic, fake_openai
from tests.models.fake_server import FakeServer, Reply, serve


@dataclass
class Stage:
    """The fakes behind a pod, and a strict client in front of it."""

    anthropic: FakeServer
    openai: FakeServer
    client: openai.AsyncOpenAI


@pytest.fixture
async def stage(redis_server: object) -> AsyncIterator[Stage]:
    async with serve(fake_anthropic.fake_anthropic) as anthropic, serve(fake_openai.fake_openai) as gpt:
        env = {
            "AGENTRT_ANTHROPIC_API_KEY": "k",
            "AGENTRT_ANTHROPIC_BASE_URL": anthropic.url,
            "AGENTRT_OPENAI_API_KEY": "k",
            "AGENTRT_OPENAI_BASE_URL": f"{gpt.url}/v1",
        }
        url = redis_server.url  # type: ignore[attr-defined]
        pod = Pod(url, target="tests.harness.provider_agents:agents", name="pod-p", env=env)
        try:
            await asyncio.to_thread(pod.start, wait=False)
            await asyncio.to_thread(pod.wait_ready, 90)  # the SDKs take seconds to import
            http = openai.DefaultAsyncHttpxClient(verify=NO_TLS)
            async with openai.AsyncOpenAI(
                api_key="k",
                base_url=f"{pod.url}/v1",
                max_retries=0,
                http_client=http,
                _strict_response_validation=True,
            ) as client:
                yield Stage(anthropic, gpt, client)
        finally:
            await asyncio.to_thread(pod.stop)


async def test_what_a_client_sees(stage: Stage) -> None:
    """A stream that breaks after the client saw some of it: what was begun is closed as incomplete, the other
    provider's answer follows whole, and the helper of the SDK puts the same together. When all are rate-limited: 429,
    and when to come again. An image without a place: a failed response that says so."""
    stage.anthropic.script.append(Reply(fake_anthropic.Script().text("Half an ", "ans").frames, cut=True))
    stage.openai.script.append(fake_openai.Script().text("The whole ", "answer.").completed())
    seen: list[str] = []
    async with stage.client.responses.stream(model="both", input="hi") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                seen.append(event.delta)
            elif event.type == "response.output_item.done":
                assert event.item.type == "message"
                seen.append(f"({event.item.status})")
        final = await stream.get_final_response()
    assert "".join(seen) == "Half an ans(incomplete)The whole answer.(completed)"
    assert final.output_text == "The whole answer." and final.status == "completed"

    stage.openai.script.append(fake_openai.failure(429, "rate_limit_exceeded", "slow down", retry_after="33"))
    with pytest.raises(openai.RateLimitError) as refused:
        await stage.client.responses.create(model="gpt", input="hi")
    assert refused.value.response.headers["retry-after"] == "33"
    assert "slow down" not in str(refused.value), "a provider's words stay inside"

    image = {"type": "input_image", "file_id": "file_1"}
    failed = await stage.client.responses.create(
        model="claude",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "?"}, image]}],  # type: ignore[list-item]
    )
    assert failed.status == "failed" and failed.error is not None and failed.error.code == "invalid_prompt"
    assert "cannot take content of type input_image" in failed.error.message
    assert (len(stage.anthropic.seen), len(stage.openai.seen)) == (1, 2)
