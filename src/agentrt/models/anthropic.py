"""Anthropic behind the `Model` interface: the Messages API, always streamed, never retried."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import anthropic
import httpx2

from agentrt.errors import ModelError
from agentrt.models import failure
from agentrt.models.anthropic_wire import PROVIDER, Reply, parameters
from agentrt.models.base import ModelEvent, ModelRequest
from agentrt.models.streaming import connection_failed, replied

__all__ = ["AnthropicModel"]


class AnthropicModel:
    """A model of Anthropic, or of a server that speaks its Messages API at `base_url`.

    `timeout_s` bounds each gap between two reads (the first byte included), not the whole call: the runtime does
    that. `max_tokens` holds for requests without a limit of their own, as Anthropic wants one. Close an abandoned
    stream (`contextlib.aclosing`); cancelling it closes its HTTP stream.
    """

    provider: str = PROVIDER

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        max_tokens: int = 16_384,
    ) -> None:
        self.name = name
        self._max_tokens = max_tokens
        timeout = httpx2.Timeout(timeout_s, connect=connect_timeout_s, pool=connect_timeout_s)
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Call the model once. The last event is a `Finished`; every failure is a `ModelError`."""
        body = parameters(self.name, request, self._max_tokens)

        # Not the SDK's method for this endpoint, as in the adapter of OpenAI.
        def send() -> Awaitable[anthropic.AsyncStream[Any]]:
            return self._client.post(
                "/v1/messages", body=body, cast_to=object, stream=True, stream_cls=anthropic.AsyncStream[Any]
            )

        return replied(PROVIDER, send, Reply(), anthropic.APIError, _model_error)


def _model_error(error: anthropic.APIError) -> ModelError:
    if isinstance(error, anthropic.APIConnectionError):  # a time-out is one of them
        return connection_failed(PROVIDER, error.__cause__)
    if not isinstance(error, anthropic.APIStatusError):
        return failure.broken(PROVIDER, "malformed reply", error)
    wait_s = failure.retry_after_s(error.response.headers, datetime.datetime.now(datetime.UTC))
    words = {"type": error.type, "request_id": error.request_id}
    return failure.from_status(PROVIDER, error.status_code, words, wait_s=wait_s, refused=True)
