"""The window: the newest items that fit a token budget. Pure."""

from __future__ import annotations

import orjson

from agentrt.memory.tokens import item_tokens, usable
from agentrt.records import Item, Items

__all__ = ["CUT", "newest"]

CUT = " […cut: this entry was longer than the context allows…] "


def newest(items: Items, budget_tokens: int) -> Items:
    """The newest items whose tokens fit, oldest first.

    Items are taken whole (a tool call and its output are one item, so nothing is split). Where not even the newest
    fits it is cut in the middle, and the cut is marked. A call that the client ran is two items; an output whose call
    did not fit goes with it.
    """
    room = usable(budget_tokens)
    if room <= 0:
        return Items(())
    # A token is at least a byte: where the bytes fit, the tokens do, and nothing needs to be counted.
    if items.size <= room:
        return items
    kept: list[Item] = []
    for item in reversed(items):
        cost = item_tokens(item.raw)
        if cost > room:
            if not kept:
                kept.append(_cut(item, room))
            break
        kept.append(item)
        room -= cost
    return Items(_whole(kept[::-1]))


def _whole(kept: list[Item]) -> list[Item]:
    """Without outputs whose call is not there."""
    calls: set[str] = set()
    whole = []
    for item in kept:
        if item.type == "function_call":
            calls.add(str(item.data.get("call_id")))
        elif item.type == "function_call_output" and str(item.data.get("call_id")) not in calls:
            continue
        whole.append(item)
    return whole


def _cut(item: Item, room_tokens: int) -> Item:
    """`item` with its longest text shortened to about `room_tokens`."""
    keep = max(room_tokens, 16)  # characters: a token is at least one
    data = dict(item.data)
    if isinstance(data.get("output"), str):
        data["output"] = _shorten(data["output"], keep)
    if isinstance(data.get("arguments"), str) and len(data["arguments"]) > keep:
        # Arguments must stay a JSON object, so what is kept of them becomes the value of one.
        data["arguments"] = orjson.dumps({"cut": _shorten(data["arguments"], keep // 2)}).decode()
    if isinstance(data.get("content"), list):
        parts = data["content"]
        data["content"] = [
            {**part, "text": _shorten(part["text"], keep // len(parts))} if isinstance(part.get("text"), str) else part
            for part in parts
        ]
    return Item.of(data, item.private)


def _shorten(text: str, keep: int) -> str:
    if len(text) <= keep:
        return text
    half = max(1, (keep - len(CUT)) // 2)
    return text[:half] + CUT + text[-half:]
