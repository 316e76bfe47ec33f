"""OpenAI behind the `Model` interface: the Responses API, always streamed, nothing stored there, never retried."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from agentrt.errors import ModelError
from agentrt.models import failure
from agentrt.models.base import Finished, ModelEvent, ModelRequest
from agentrt.models.openai_wire import PROVIDER, Reply, error_of, parameters

__all__ = ["OpenAIModel"]

_DRAIN_S = 0.25
"""How long the end of a complete reply is waited for, so that its connection can be used again."""


class OpenAIModel:
    """A model of OpenAI, or of a server that speaks its Responses API at `base_url`.

    `timeout_s` bounds each gap between two reads (the first byte included), not the whole call: the runtime does
    that. Close an abandoned stream (`contextlib.aclosing`); cancelling it closes its HTTP stream.
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
    ) -> None:
        self.name = name
        timeout = httpx2.Timeout(timeout_s, connect=connect_timeout_s, pool=connect_timeout_s)
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Call the model once. The last event is a `Finished`; every failure is a `ModelError`."""
        reply = Reply()
        params = parameters(self.name, request)
        try:
            stream: openai.AsyncStream[Any] = await self._client.responses.create(**params)
            async with stream:
                while (event := await anext(stream, None)) is not None:
                    for said in reply.feed(_mapping(event)):
                        if isinstance(said, Finished):
                            await _drain(stream)
                            yield said
                            return
                        yield said
        except openai.APIError as error:
            raise _model_error(error) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise failure.broken(PROVIDER, "the connection failed", error) from None
        except ValueError as error:  # JSON or UTF-8 that does not decode
            raise failure.broken(PROVIDER, "malformed stream", error) from None
        raise failure.broken(PROVIDER, "the stream ended before the reply was complete")


async def _drain(stream: openai.AsyncStream[Any]) -> None:
    """Read what follows a complete reply. It cannot make the reply wrong, so failures do not matter here."""
    with contextlib.suppress(TimeoutError, openai.APIError, httpx2.HTTPError, httpx2.StreamError, ValueError):
        async with asyncio.timeout(_DRAIN_S):
            while await anext(stream, None) is not None:
                pass


def _mapping(event: Any) -> dict[str, Any]:
    """An event as the JSON object that came over the wire."""
    if not isinstance(event, openai.BaseModel):
        raise failure.broken(PROVIDER, "malformed event: not an object")
    return event.to_dict(warnings=False)


def _model_error(error: openai.APIError) -> ModelError:
    if isinstance(error, openai.APITimeoutError):
        return failure.broken(PROVIDER, "timed out", error.__cause__)
    if isinstance(error, openai.APIConnectionError):
        return failure.broken(PROVIDER, "the connection failed", error.__cause__)
    if isinstance(error, openai.APIStatusError):
        words = {"code": error.code or error.type, "param": error.param, "request_id": error.request_id}
        wait_s = failure.retry_after_s(error.response.headers, datetime.datetime.now(datetime.UTC))
        return failure.from_status(PROVIDER, error.status_code, words, wait_s=wait_s, refused=True)
    return error_of(error.body if isinstance(error.body, dict) else {})
