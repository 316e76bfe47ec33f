"""`/v1/chat/completions`: the whole history comes with every request, so nothing of it is kept for the next one.

A run like any other, with its owner, journal and Idempotency-Key, in a session of its own that goes after a day. What
the runtime's own tools do is not shown; calls of the client's tools are, and their outputs come with the next request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from agentrt.errors import StoreUnavailable
from agentrt.http.answers import final, live
from agentrt.http.chat_request import Messages, asked_options
from agentrt.http.chat_stream import ChatStream, completion, completion_id
from agentrt.http.errors import invalid, json_response
from agentrt.http.items import check_items
from agentrt.http.limits import quota_headers
from agentrt.http.requests import find_agent, new_begin
from agentrt.http.sse import EventStream
from agentrt.http.surface import Surface, surface
from agentrt.records import Request
from agentrt.runtime.admission import Place
from agentrt.runtime.log import Frame

__all__ = ["create"]


async def create(request: HttpRequest) -> ASGIApp:
    """Run an agent on a chat; the answer is one completion, or its chunks."""
    to = surface(request)
    principal, body = await to.json(request)
    agent = find_agent(body.get("model"), to.agents)
    options, user = asked_options(body)
    messages = Messages.read(body.get("messages"))
    inputs = check_items(messages.items, to.bounds, "messages", messages.names)
    streamed, usage = _stream(body)
    trace = to.services.tracing.arrival(agent.name, request.headers)
    asked = Request(agent.name, int(time.time()), options, user=user, chat=True, trace=trace)
    begin = new_begin(request, body, principal, asked, agent, inputs)
    place = await to.admission.enter(begin)
    if place.owned is not None and place.owned.record is None:
        place.request, place.inputs = asked, inputs
    if streamed:
        chunks = ChatStream(completion_id(place.session.id, place.run), asked, with_usage=usage)
        return EventStream(_judged(to, place, chunks), to.runs.gone, chunks.render, quota_headers(place.left))
    result = await final(to, place)
    return json_response(completion(orjson.loads(result)), headers=quota_headers(place.left))


async def _judged(to: Surface, place: Place, chunks: ChatStream) -> AsyncGenerator[list[Frame], None]:
    """The events of a run. A failure is shown when it is known whether it may pass: a client that comes again without a
    key begins anew, with all that was called for it.
    """
    async with aclosing(live(to, place)) as batches:
        async for batch in batches:
            number, kind, _ = batch[-1]
            if kind == "response.failed":
                with suppress(StoreUnavailable):  # then nobody knows, and the client is not asked to come again
                    state, _ = await to.services.events.read(place.session, place.run, number)
                    chunks.may_pass = state is not None and state.retry
            yield batch


def _stream(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether chunks are wanted, and the usage behind them."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("'stream' must be true or false", "stream", "invalid_type")
    options = body.get("stream_options")
    if options is None:
        return bool(stream), False
    if not isinstance(options, dict):
        raise invalid("'stream_options' must be an object", "stream_options", "invalid_type")
    return bool(stream), options.get("include_usage") is True
