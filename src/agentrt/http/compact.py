"""`/v1/responses/compact`: a conversation made short, into one item that stands for all of it in later requests.

A run like any other, in a session of its own: its model is asked for notes instead of an answer, and has no tools.
Nothing of it is kept here; the client carries the item.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from agentrt.agent import Agent
from agentrt.http.answers import final
from agentrt.http.body import check_options, check_user
from agentrt.http.errors import ApiError, invalid, json_response
from agentrt.http.items import check_items
from agentrt.http.limits import quota_headers
from agentrt.http.requests import find_agent, new_begin, response_keys
from agentrt.http.responses import no_previous, outlived
from agentrt.http.surface import Surface, surface
from agentrt.memory.window import newest
from agentrt.records import COMPACTED, TERMINAL, Items, Request, item_id, seal

__all__ = ["compact"]

_OPTIONS = ("instructions", "prompt_cache_key", "service_tier")


async def compact(request: HttpRequest) -> ASGIApp:
    """Compact a conversation: what was sent, behind what `previous_response_id` ends."""
    to = surface(request)
    principal, body = await to.json(request)
    agent = find_agent(body.get("model"), to.agents)
    options = check_options({name: body.get(name) for name in _OPTIONS})
    previous = body.get("previous_response_id")
    inputs: list[dict[str, Any]] = []
    user = check_user(body)
    if previous is not None:
        inputs, whose = await _history(to, principal.tenant, previous, agent)
        user = whose or user
    if body.get("input") is not None or not inputs:
        inputs += check_items(body.get("input"), to.bounds)
    # What is stored is always cut to what a model can see; what is sent is not.
    options.update(tool_choice="none", max_tool_calls=0, truncation="disabled" if previous is None else "auto")
    trace = to.services.tracing.arrival(agent.name, request.headers)
    asked = Request(agent.name, int(time.time()), options, user=user, trace=trace, compact=True)
    begin = new_begin(request, {**body, "object": "response.compaction"}, principal, asked, agent, inputs)
    place = await to.admission.enter(begin)
    if place.owned is not None and place.owned.record is None:
        place.request, place.inputs = asked, inputs
    result = await final(to, place)
    return json_response(_compaction(orjson.loads(result), place.run), headers=quota_headers(place.left))


async def _history(to: Surface, tenant: str, previous: Any, agent: Agent) -> tuple[list[dict[str, Any]], str]:
    """The items up to the end of a response, as far back as the agent's model may see, and whose they are.

    Raises a 400, a 404.
    """
    if not isinstance(previous, str) or not previous:
        raise invalid("'previous_response_id' must be an id", "previous_response_id", "invalid_type")
    named = response_keys(tenant, previous)
    status, first, count = await to.services.sessions.items_of(*named) if named else (None, 0, 0)
    if named is None or status is None:
        raise no_previous(previous)
    if status.decode() not in TERMINAL:
        raise ApiError(409, "conversation_locked", "The previous response has not ended.", retry_after_s=1)
    lines = await to.services.sessions.history(named[0], first + count)
    items = newest(Items([line for line in lines if line]), agent.limits.context_tokens)
    header = await to.services.conversations.header(named[0], alone=True)
    if header is None or await outlived(to, tenant, header):
        raise no_previous(previous)
    return [item.data for item in items], header.user


def _compaction(response: dict[str, Any], run: str) -> dict[str, Any]:
    """The answer made of the run's response. Raises `ApiError` where no notes came of it."""
    if response["status"] == "failed":
        error = response["error"]
        status = 400 if error["code"] == "invalid_prompt" else 500
        raise ApiError(status, error["code"], error["message"], final=True)
    parts = [part for item in response["output"] for part in item.get("content", ())]
    notes = "".join(part.get("text", "") for part in parts).strip()
    if response["status"] != "completed" or not notes:
        raise ApiError(422, "not_compacted", "The model gave no whole summary of this.")
    sealed = seal(COMPACTED, {"summary": notes})
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": response["created_at"],
        "output": [{"id": item_id("compaction", run, 0), "type": "compaction", "encrypted_content": sealed}],
        "usage": response["usage"],
    }
