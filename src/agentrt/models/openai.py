"""OpenAI and what is compatible with it behind the `Model` interface: always streamed, never stored, never retried."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import httpx2
import openai

from agentrt.errors import ModelError
from agentrt.models import chat_wire, failure, openai_wire
from agentrt.models.base import ModelEvent, ModelRequest
from agentrt.models.streaming import Reply, connection_failed, replied

__all__ = ["OpenAIChatModel", "OpenAIModel"]


class _Adapter:
    """A connection to a server of OpenAI's kind."""

    provider: str

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.name = name
        timeout = httpx2.Timeout(timeout_s, connect=connect_timeout_s, pool=connect_timeout_s)
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _replied(self, path: str, body: Mapping[str, Any], reply: Reply) -> AsyncIterator[ModelEvent]:
        # Not the SDK's method for this endpoint: it walks through the whole conversation by the types of its
        # parameters, which costs nearly as much as all the rest of a reply.
        def send() -> Awaitable[openai.AsyncStream[Any]]:
            return self._client.post(path, body=body, cast_to=object, stream=True, stream_cls=openai.AsyncStream[Any])

        return replied(self.provider, send, reply, openai.APIError, self._model_error)

    def _model_error(self, error: openai.APIError) -> ModelError:
        if isinstance(error, openai.APIConnectionError):  # a time-out is one of them
            return connection_failed(self.provider, error.__cause__)
        if not isinstance(error, openai.APIStatusError):
            return failure.broken(self.provider, "malformed reply", error)
        words: Mapping[str, Any] = {
            "code": error.code or error.type,
            "param": error.param,
            "request_id": error.request_id,
        }
        wait_s = failure.retry_after_s(error.response.headers, datetime.datetime.now(datetime.UTC))
        return failure.from_status(self.provider, error.status_code, words, wait_s=wait_s, refused=True)


class OpenAIModel(_Adapter):
    """A model of OpenAI, or of a server that speaks its Responses API at `base_url`.

    `timeout_s` bounds each gap between two reads (the first byte included), not the whole call: the runtime does
    that. Close an abandoned stream (`contextlib.aclosing`); cancelling it closes its HTTP stream.
    """

    provider = openai_wire.PROVIDER

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Call the model once. The last event is a `Finished`; every failure is a `ModelError`."""
        body = openai_wire.parameters(self.name, request)
        return self._replied("/responses", body, openai_wire.Reply())


class OpenAIChatModel(_Adapter):
    """A model of a server that speaks OpenAI's chat completions at `base_url`; otherwise as `OpenAIModel`."""

    provider = chat_wire.PROVIDER

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Call the model once. The last event is a `Finished`; every failure is a `ModelError`."""
        body = chat_wire.parameters(self.name, request)
        return self._replied("/chat/completions", body, chat_wire.Reply())
