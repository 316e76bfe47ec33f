"""`/v1/conversations`: create, look at, change, delete; and their items."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from agentrt.http.body import check_metadata, check_user
from agentrt.http.errors import ApiError, invalid, json_response, not_found
from agentrt.http.items import check_items
from agentrt.http.requests import conversation_keys, idempotency_key
from agentrt.http.surface import Page, Surface, page_of, spliced_list, surface
from agentrt.records import Item, parse_item_id
from agentrt.runtime.refusals import Locked, OtherBody
from agentrt.store.conversations import Header
from agentrt.store.keys import SessionKeys, derive_id, new_id

__all__ = [
    "append",
    "create",
    "delete",
    "delete_item",
    "items",
    "retrieve",
    "retrieve_item",
    "update",
]

_TRIES = 8
"""Numbers for appended items are taken optimistically; this many writers may be faster before the client is told."""


def _conversation(session: SessionKeys, created_ms: int, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "id": f"conv_{session.id}",
        "object": "conversation",
        "created_at": created_ms // 1000,
        "metadata": metadata,
    }


def _session(request: HttpRequest) -> tuple[Surface, SessionKeys]:
    to = surface(request)
    identifier = request.path_params["conversation_id"]
    session = conversation_keys(to.keys.check(request).tenant, identifier)
    if session is None:
        raise not_found("Conversation", identifier)
    return to, session


async def _header(to: Surface, session: SessionKeys) -> Header:
    header = await to.services.conversations.header(session)
    if header is None:
        raise not_found("Conversation", f"conv_{session.id}")
    return header


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _numbered(inputs: list[dict[str, Any]], origin: str, first: int) -> list[Item]:
    return [Item.given(data, origin, first + number) for number, data in enumerate(inputs)]


def _metadata(body: dict[str, Any]) -> dict[str, str]:
    given = body.get("metadata")
    return {} if given is None else check_metadata(given)


async def create(request: HttpRequest) -> ASGIApp:
    """Begin a conversation, with items and metadata if wanted. An Idempotency-Key makes it safe to repeat."""
    to = surface(request)
    principal, body = await to.json(request)
    metadata = _metadata(body)
    items = body.get("items")
    inputs = check_items(items, to.bounds, "items") if items is not None and items != [] else []
    user = check_user(body)
    key = idempotency_key(request)
    who = principal.credential
    session = SessionKeys(principal.tenant, derive_id(principal.tenant, who, "conversation", key) if key else new_id())
    if user:  # in the user's index before there is anything to be found by it
        await to.services.recollections.greet(session, user).head()
    op = _digest(body) if key else new_id()
    lines = [item.encode() for item in _numbered(inputs, session.id, 0)]
    created_ms = await to.services.conversations.create(
        session, op=op, lines=lines, user=user, metadata=orjson.dumps(metadata)
    )
    if created_ms is None:
        raise OtherBody("this Idempotency-Key was used with another request body")
    return json_response(_conversation(session, created_ms, metadata))


async def retrieve(request: HttpRequest) -> ASGIApp:
    """The conversation object."""
    to, session = _session(request)
    header = await _header(to, session)
    return json_response(_conversation(session, header.created_ms, header.metadata))


async def update(request: HttpRequest) -> ASGIApp:
    """Replace the metadata."""
    to, session = _session(request)
    _, body = await to.json(request)
    metadata = _metadata(body)
    if not await to.services.conversations.update(session, orjson.dumps(metadata)):
        raise not_found("Conversation", f"conv_{session.id}")
    header = await _header(to, session)
    return json_response(_conversation(session, header.created_ms, header.metadata))


async def delete(request: HttpRequest) -> ASGIApp:
    """Remove the conversation with everything in it; a run in flight is refused its writes from then on."""
    to, session = _session(request)
    if not await to.services.conversations.delete(session):
        raise not_found("Conversation", f"conv_{session.id}")
    return json_response({"id": f"conv_{session.id}", "object": "conversation.deleted", "deleted": True})


async def items(request: HttpRequest) -> ASGIApp:
    """The items of a conversation, a page at a time; reading a page costs the page, whatever the length."""
    to, session = _session(request)
    page = page_of(request)
    header = await _header(to, session)
    found, has_more = await _page(to, session, page, header.seq)
    lines = [line.partition(b"\n")[0] for _, line in found]
    ids = [str(orjson.loads(line)["id"]) for line in lines]
    return json_response(spliced_list(lines, ids, has_more))


async def _page(to: Surface, session: SessionKeys, page: Page, seq: int) -> tuple[list[tuple[int, bytes]], bool]:
    """The page's lines in its order, and whether there are more; numbers that stayed empty are read past.

    `after` may be an item that was deleted since: its number is in its id.
    """
    conversations = to.services.conversations
    position = -1 if page.ascending else seq
    if page.after:
        parsed = parse_item_id(page.after)
        item = await conversations.item(session, parsed[1]) if parsed else None
        if parsed is None or parsed[1] >= seq or (item is not None and item.id != page.after):
            raise invalid("'after' is not an item of this conversation", "after")
        position = parsed[1]
    found: list[tuple[int, bytes]] = []
    while len(found) <= page.limit:
        step = page.limit + 1 - len(found)
        if page.ascending:
            start, stop = position + 1, min(position + 1 + step, seq)
        else:
            start, stop = max(position - step, 0), position
        if start >= stop:
            break
        part = await conversations.items(session, start, stop)
        found += part if page.ascending else part[::-1]
        position = stop - 1 if page.ascending else start
    return found[: page.limit], len(found) > page.limit


async def append(request: HttpRequest) -> ASGIApp:
    """Add items between turns; refused while a turn is under way. An Idempotency-Key makes it safe to repeat."""
    to, session = _session(request)
    principal, body = await to.json(request)
    inputs = check_items(body.get("items"), to.bounds, "items")
    conversations = to.services.conversations
    key = idempotency_key(request)
    op = derive_id(session.tenant, principal.credential, "append", session.id, key) if key else new_id()
    keyed = _digest(body) if key else ""
    seq = (await _header(to, session)).seq
    for _ in range(_TRIES):
        new = _numbered(inputs, op, seq)
        outcome = await conversations.append(session, op, seq, new, keyed)
        match outcome.outcome:
            case "ok" | "again":
                new = new if outcome.outcome == "ok" else _numbered(inputs, op, int(outcome.detail))
                return json_response(spliced_list([item.raw for item in new], [item.id for item in new], False))
            case "missing":
                raise not_found("Conversation", f"conv_{session.id}")
            case "busy":
                raise Locked(outcome.detail)
            case "other":
                raise OtherBody("this Idempotency-Key was used with another request body")
        seq = int(outcome.detail)
    raise Locked("")


async def _item(request: HttpRequest) -> tuple[Surface, SessionKeys, int, Item]:
    to, session = _session(request)
    identifier = request.path_params["item_id"]
    parsed = parse_item_id(identifier)
    item = await to.services.conversations.item(session, parsed[1]) if parsed else None
    if parsed is None or item is None or item.id != identifier:
        raise not_found("Item", identifier)
    return to, session, parsed[1], item


async def retrieve_item(request: HttpRequest) -> ASGIApp:
    """One item."""
    _, _, _, item = await _item(request)
    return json_response(item.raw)


async def delete_item(request: HttpRequest) -> ASGIApp:
    """Remove one item; the answer is the conversation."""
    to, session, number, item = await _item(request)
    header = await _header(to, session)
    if header.live_run:
        raise Locked(header.live_run)
    outcome = await to.people.forgetting.stored(session, header.user, number, item)
    match outcome.outcome:
        case "busy":
            raise Locked(outcome.detail)
        case "missing":
            raise ApiError(404, "not_found", "Item not found.", param="id")
    return json_response(_conversation(session, header.created_ms, header.metadata))
