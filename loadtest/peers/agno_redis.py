"""agno with its RedisDb: one agent, the newest 50 messages in the context."""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.db.redis import RedisDb
from agno.models.base import Model
from agno.models.response import ModelResponse

__all__ = ["Framework"]

_WINDOW = 50


@dataclass
class _Echo(Model):
    id: str = "echo"

    async def ainvoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        messages = kwargs.get("messages") or args[0]
        return ModelResponse(role="assistant", content=f"echo: {messages[-1].content}")

    def invoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        raise NotImplementedError

    def ainvoke_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:  # noqa: ARG002
        return ModelResponse()

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:  # noqa: ARG002
        return ModelResponse()


class Framework:
    """One agent, made once; the session is an argument."""

    async def start(self, stack: AsyncExitStack, redis_url: str, postgres_url: str) -> None:  # noqa: ARG002
        self._db = RedisDb(db_url=redis_url)
        self._agent = Agent(
            model=_Echo(),
            db=self._db,
            instructions="Echo.",
            add_history_to_context=True,
            num_history_messages=_WINDOW,
            telemetry=False,
        )

    async def prefill(self, session: str, texts: list[tuple[str, str]]) -> None:
        """The first turn as always; the others are copies of what it left, written by the framework's own code."""
        run = await self._agent.arun(texts[0][0], session_id=session)
        for number in range(1, len(texts)):
            other = copy.deepcopy(run)
            other.run_id = str(uuid.uuid4())
            self._db.upsert_run(other, session_id=session, run_index=number)

    async def turn(self, session: str, text: str) -> str:
        run = await self._agent.arun(text, session_id=session)
        return str(run.content)
