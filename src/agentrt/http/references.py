"""`item_reference`: a client that keeps its history names items that are stored here instead of sending them again.

An item's id names its run. The run's session follows from that where the run began it, or forked into it; else it is
the one that the request continues.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson

from agentrt.http.errors import ApiError, invalid
from agentrt.http.requests import Message, first_session
from agentrt.http.surface import Surface
from agentrt.records import Item, parse_item_id, seal
from agentrt.store.keys import SessionKeys, derive_id

__all__ = ["resolve"]


async def resolve(to: Surface, message: Message) -> None:
    """Put the items that a message refers to in their places. Raises a 400 for one that is not there, or not yours."""
    named = {number: one["id"] for number, one in enumerate(message.inputs) if one["type"] == "item_reference"}
    if not named:
        return
    found = await asyncio.gather(*(_find(to, message.begin.session, one) for one in named.values()))
    for (number, identifier), item in zip(named.items(), found, strict=True):
        if item is None:
            where = f"input[{number}].id"
            raise ApiError(400, "not_found", f"Item with id '{identifier[:128]}' not found.", param=where, final=True)
        message.inputs[number] = _carried(item)
    raw = orjson.dumps(message.inputs)
    if len(raw) > to.bounds.body_bytes_max:
        raise invalid(f"'input' is longer than {to.bounds.body_bytes_max} bytes with what it refers to", "input")
    message.begin = replace(message.begin, input=raw)


async def _find(to: Surface, continued: SessionKeys, identifier: str) -> Item | None:
    parsed = parse_item_id(identifier)
    if parsed is None:
        return None
    run, number = parsed
    tenant = continued.tenant
    forked = SessionKeys(tenant, derive_id(tenant, run, "fork"))
    for session in (first_session(tenant, run), continued, forked):
        item = await to.services.conversations.item(session, number)
        if item is not None and item.id == identifier:
            return item
    return None


def _carried(item: Item) -> dict[str, Any]:
    """It as a client would have sent it: thoughts sealed, with what their provider needs to get back."""
    data = {name: value for name, value in item.data.items() if name != "id"}
    private = item.private
    if item.type == "reasoning" and isinstance(private.get("data"), dict):
        data["encrypted_content"] = seal(str(private["provider"]), private["data"])
    return data
