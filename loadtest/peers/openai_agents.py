"""openai-agents with its RedisSession, as its guide has it: the newest 50 items, one client for all sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio
from agents import Agent, ModelResponse, RunConfig, Runner, Usage, set_tracing_disabled
from agents.extensions.memory import RedisSession
from agents.memory import SessionSettings
from agents.models.interface import Model
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

__all__ = ["Framework"]

_WINDOW = 50


class _Echo(Model):
    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:  # noqa: A002, ARG002 - the framework's names
        text = ResponseOutputText(text=f"echo: {input[-1]['content']}", type="output_text", annotations=[], logprobs=[])
        said = ResponseOutputMessage(id="msg_1", content=[text], role="assistant", status="completed", type="message")
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: ARG002
        raise NotImplementedError("turns are not streamed here")
        yield


class Framework:
    """One agent, a session object for each turn."""

    async def start(self, stack: AsyncExitStack, redis_url: str, postgres_url: str) -> None:  # noqa: ARG002
        set_tracing_disabled(True)
        self._redis = redis.asyncio.Redis.from_url(redis_url, max_connections=64)
        stack.push_async_callback(self._redis.aclose)
        self._agent = Agent(name="echo", instructions="Echo.", model=_Echo())
        self._config = RunConfig(tracing_disabled=True)

    def _session(self, session: str) -> RedisSession:
        return RedisSession(session, redis_client=self._redis, session_settings=SessionSettings(limit=_WINDOW))

    async def prefill(self, session: str, texts: list[tuple[str, str]]) -> None:
        items: list[Any] = []
        for said, answered in texts:
            items.append({"role": "user", "content": said})
            text = {"type": "output_text", "text": answered, "annotations": [], "logprobs": []}
            items.append(
                {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
            )
        await self._session(session).add_items(items)

    async def turn(self, session: str, text: str) -> str:
        result = await Runner.run(self._agent, text, session=self._session(session), run_config=self._config)
        return str(result.final_output)
