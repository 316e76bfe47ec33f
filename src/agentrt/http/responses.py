"""`/v1/responses`: create, stream, retrieve, cancel, delete, and the input items of a response."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from agentrt.http.answers import final, live
from agentrt.http.body import is_number
from agentrt.http.errors import ApiError, invalid, json_response, not_found
from agentrt.http.limits import quota_headers
from agentrt.http.references import resolve
from agentrt.http.requests import Message, parse_message, response_keys
from agentrt.http.sse import EventStream
from agentrt.http.surface import Surface, page_of, spliced_list, surface
from agentrt.records import TERMINAL, Request
from agentrt.runtime import response
from agentrt.runtime.admission import Place
from agentrt.runtime.refusals import Locked, NoSuchSession, NotTheTail
from agentrt.store.begin import Begin
from agentrt.store.conversations import Header, StoredRun
from agentrt.store.keys import SessionKeys, UserKeys, derive_id

__all__ = ["cancel", "create", "delete", "input_items", "no_previous", "outlived", "retrieve"]

_CANCEL_S = 3.0
"""How long a cancel waits to see the run end before it answers with the run as it stands."""


async def create(request: HttpRequest) -> ASGIApp:
    """Run an agent on an input; the answer is the response, or the stream of its events."""
    to = surface(request)
    principal, body = await to.json(request)
    message = parse_message(request, body, principal, to.agents, to.bounds, to.services.tracing)
    await resolve(to, message)
    try:
        place = await to.admission.enter(message.begin)
    except NotTheTail:
        place = await to.admission.enter(await _fork(to, message))
    except NoSuchSession:
        asked = message.request
        raise (no_previous(asked.previous) if asked.previous else _no_conversation(asked.conversation)) from None
    if place.owned is not None and place.owned.record is None:
        place.request, place.inputs = message.request, message.inputs
    headers = quota_headers(place.left)
    if message.stream:
        return EventStream(live(to, place), to.runs.gone, headers=headers)
    if message.request.options.get("background"):
        if place.owned is not None:
            to.admission.run_in_background(place)
        stored = await to.services.conversations.run(place.session, place.run)
        if stored is not None:
            return json_response(_body(place.session, place.run, stored), headers=headers)
    result = await final(to, place)
    return json_response(result, headers=headers)


def no_previous(identifier: str) -> ApiError:
    """The 404 for a response that cannot be continued: not there, or not yours."""
    text = f"Previous response with id '{identifier[:64]}' not found."
    return ApiError(404, "previous_response_not_found", text, param="previous_response_id")


def _no_conversation(identifier: str) -> ApiError:
    text = f"Conversation with id '{identifier[:64]}' not found."
    return ApiError(404, "not_found", text, param="conversation")


async def outlived(to: Surface, tenant: str, header: Header) -> bool:
    """Whether a session is of an earlier life of its user, who was erased since: it is about to go, and not to be
    copied."""
    if not header.user:
        return False
    erased_at = await to.services.users.erased_at(UserKeys(tenant, header.user))
    return erased_at is not None and header.created_ms <= erased_at


async def _fork(to: Surface, message: Message) -> Begin:
    """A session of its own that begins with the items up to the parent's end; its id derives from the run's."""
    begin, services = message.begin, to.services
    source = await services.conversations.header(begin.session, alone=True)
    user = (source.user if source is not None else "") or begin.user
    status, first, count = await services.sessions.items_of(begin.session, begin.parent)
    if status is None:
        raise no_previous(message.request.previous)
    if status.decode() not in TERMINAL:
        raise Locked(begin.parent)
    forked = SessionKeys(begin.session.tenant, derive_id(begin.session.tenant, begin.run, "fork"))
    # What is copied stays its user's.
    if user:  # before it is there: what is not in the user's index would outlive an erasure
        await services.recollections.greet(forked, user).head()
    copied = services.conversations.copy
    if not await copied(begin.session, first + count, forked, op=begin.run, user=user, head=begin.parent):
        raise no_previous(message.request.previous)
    # Behind the copy: an erasure that comes later finds it by itself.
    if source is not None and await outlived(to, begin.session.tenant, source):
        await services.conversations.delete(forked)
        raise no_previous(message.request.previous)
    return replace(begin, session=forked, user=user)


async def _stored(to: Surface, request: HttpRequest) -> tuple[SessionKeys, str, StoredRun]:
    identifier = request.path_params["response_id"]
    named = response_keys(to.keys.check(request).tenant, identifier)
    stored = await to.services.conversations.run(*named) if named else None
    asked = Request.decode(stored.request) if stored is not None else None
    if named is None or stored is None or asked is None or asked.alone or asked.options.get("store") is False:
        raise not_found("Response", identifier)
    return named[0], named[1], stored


async def retrieve(request: HttpRequest) -> ASGIApp:
    """A response as it stands; with `stream=true` its events from `starting_after` on."""
    to = surface(request)
    after = _cursor(request)
    session, run, stored = await _stored(to, request)
    stream = request.query_params.get("stream", "false")
    if stream not in {"true", "false"}:
        raise invalid("'stream' must be `true` or `false`", "stream")
    if stream == "true":
        return EventStream(to.following.frames(Place(session, run), after), to.runs.gone)
    return json_response(_body(session, run, stored))


def _cursor(request: HttpRequest) -> int:
    raw = request.query_params.get("starting_after")
    if raw is None:
        return -1
    if not is_number(raw):
        raise invalid("'starting_after' must be the number of an event", "starting_after")
    return int(raw)


def _body(session: SessionKeys, run: str, stored: StoredRun) -> bytes:
    if stored.result:
        return stored.result
    status = "queued" if stored.status == "waiting" else "in_progress"
    identifier = response.response_id(session.id, run)
    return orjson.dumps(response.body(Request.decode(stored.request), identifier, status))


async def cancel(request: HttpRequest) -> ASGIApp:
    """Ask for the end of a run; the answer shows it as it stands, `cancelled` once its owner has ended it."""
    to = surface(request)
    session, run, stored = await _stored(to, request)
    asked = Request.decode(stored.request)
    identifier = response.response_id(session.id, run)
    result = orjson.dumps(response.body(asked, identifier, "cancelled"))
    outcome = await to.services.conversations.cancel(session, run, result)
    if outcome == "missing":
        raise not_found("Response", identifier)
    if outcome in TERMINAL and outcome != "cancelled":
        raise ApiError(400, "response_ended", f"Cannot cancel a response that is {outcome}.", final=True)
    if outcome == "cancelled":
        return json_response(result)
    try:
        async with asyncio.timeout(_CANCEL_S):
            await to.following.result(Place(session, run))
    except TimeoutError:
        pass  # a tool is under way: it is not torn down, the run ends when it does
    now = await to.services.conversations.run(session, run)
    return json_response(_body(session, run, now or stored))


async def delete(request: HttpRequest) -> ASGIApp:
    """Forget a response that has ended; its items stay in the conversation."""
    to = surface(request)
    session, run, _ = await _stored(to, request)
    identifier = request.path_params["response_id"]
    outcome = await to.services.conversations.delete_run(session, run)
    if outcome == "running":
        raise ApiError(409, "response_in_progress", "The response has not ended; cancel it first.", final=True)
    if outcome == "in_doubt":
        text = "What one of its actions did is not known; it can be deleted once that is resolved."
        raise ApiError(409, "effect_in_doubt", text, final=True)
    if outcome == "missing":
        raise not_found("Response", identifier)
    return json_response({"id": identifier, "object": "response", "deleted": True})


async def input_items(request: HttpRequest) -> ASGIApp:
    """The items that a response was asked with."""
    to = surface(request)
    page = page_of(request)
    session, run, stored = await _stored(to, request)
    items = await to.services.conversations.asked(session, run, stored)
    if not page.ascending:
        items.reverse()
    if page.after:
        ids = [identifier for identifier, _ in items]
        if page.after not in ids:
            raise invalid("'after' is not an item of this list", "after")
        items = items[ids.index(page.after) + 1 :]
    shown = items[: page.limit]
    ids = [identifier for identifier, _ in shown]
    return json_response(spliced_list([raw for _, raw in shown], ids, len(items) > len(shown)))
