"""Checking the items that clients send: every fault is named by its parameter, what may be left out is filled in.

Whatever passes can be read back by every client of the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agentrt.http.body import Bounds
from agentrt.http.errors import invalid
from agentrt.records import COMPACTED, unseal

__all__ = ["check_items"]


def check_items(
    value: Any, bounds: Bounds, param: str = "input", names: Sequence[str] = (), *, references: bool = False
) -> list[dict[str, Any]]:
    """The input as a list of items in the API's shape, without ids: those are the runtime's to give.

    `names`: what each item is called in errors, where it is not `param[n]`. `references`: an item may be an
    `item_reference`, whose id stays.
    """
    text = param == "input"  # elsewhere the API knows lists only
    if text and isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid(f"'{param}' must be {'a string or ' * text}a list of items", param, "invalid_type")
    if len(value) > bounds.items_max:
        raise invalid(f"'{param}' has more than {bounds.items_max} items", param, "array_above_max_length")
    items = []
    for number, raw in enumerate(value):
        at = names[number] if names else f"{param}[{number}]"
        if not isinstance(raw, dict):
            raise invalid(f"'{at}' must be an object", at, "invalid_type")
        item = _check_reference(raw, at) if references and _is_reference(raw) else _check_item(raw, at)
        if len(orjson.dumps(item)) > bounds.item_bytes_max:
            raise invalid(f"'{at}' is longer than {bounds.item_bytes_max} bytes", at, "item_too_large")
        items.append(item)
    return items


_FIELDS: Mapping[str, Mapping[str, type]] = {
    "function_call": {"call_id": str, "name": str, "arguments": str},
    "function_call_output": {"call_id": str},
    "mcp_approval_response": {"approval_request_id": str, "approve": bool},
    "reasoning": {},
    "mcp_call": {"name": str, "arguments": str, "server_label": str},
    "mcp_approval_request": {"name": str, "arguments": str, "server_label": str},
    "compaction": {"encrypted_content": str},
}
_STATUSES = frozenset({"in_progress", "completed", "incomplete"})
_CALL_STATUSES = ("completed", "failed", "in_progress", "incomplete")
_WORDS = {str: "a string", bool: "true or false"}


def _is_reference(raw: dict[str, Any]) -> bool:
    """The type may be left out."""
    return raw.get("type") == "item_reference" or (raw.get("type") is None and "role" not in raw and "id" in raw)


def _check_reference(raw: dict[str, Any], at: str) -> dict[str, Any]:
    if not isinstance(raw.get("id"), str):
        raise invalid(f"'{at}.id' must be a string", f"{at}.id", "invalid_type")
    return {"type": "item_reference", "id": raw["id"]}


def _check_item(raw: dict[str, Any], at: str) -> dict[str, Any]:
    kind = raw.get("type") or ("message" if "role" in raw else None)
    item = {name: value for name, value in raw.items() if name != "id"}
    if kind == "message":
        return _check_message(item, at)
    if not isinstance(kind, str) or (wanted := _FIELDS.get(kind)) is None:
        raise invalid(f"'{at}.type' is not a type of item that can be sent", f"{at}.type")
    for name, type_ in wanted.items():
        if not isinstance(item.get(name), type_):
            raise invalid(f"'{at}.{name}' must be {_WORDS[type_]}", f"{at}.{name}", "invalid_type")
    if kind == "reasoning":
        _check_reasoning(item, at)
    if kind == "compaction":
        return _check_compaction(item, at)
    if kind == "function_call_output":
        item["output"] = _check_output(item.get("output"), at)
    if kind.startswith("function_call") or kind == "reasoning":
        status = item.setdefault("status", "completed")
        if not isinstance(status, str) or status not in _STATUSES:
            raise invalid(f"'{at}.status' must be one of {sorted(_STATUSES)}", f"{at}.status")
    elif item.get("status") is None:
        item.pop("status", None)
    elif item["status"] not in _CALL_STATUSES:
        raise invalid(f"'{at}.status' must be one of {sorted(_CALL_STATUSES)}", f"{at}.status")
    return item


def _check_reasoning(item: dict[str, Any], at: str) -> None:
    """Its parts are texts of one kind each, as every client reads them back."""
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name)
        if parts is None:
            item.pop(name, None)
            continue
        known = isinstance(parts, list) and all(
            isinstance(part, dict) and part.get("type") == kind and isinstance(part.get("text"), str) for part in parts
        )
        if not known:
            raise invalid(f"'{at}.{name}' must be a list of {kind}", f"{at}.{name}", "invalid_type")
    item.setdefault("summary", [])
    if not isinstance(item.get("encrypted_content"), str | None):
        raise invalid(f"'{at}.encrypted_content' must be a string", f"{at}.encrypted_content", "invalid_type")


def _check_compaction(item: dict[str, Any], at: str) -> dict[str, Any]:
    """One that was made here: what another server has sealed stands for a past that no model here could see."""
    private = unseal(item["encrypted_content"])
    if private.get("provider") != COMPACTED or not isinstance(private["data"].get("summary"), str):
        where = f"{at}.encrypted_content"
        raise invalid(f"'{where}' is not what /v1/responses/compact gave", where)
    return {"type": "compaction", "encrypted_content": item["encrypted_content"]}


def _check_output(output: Any, at: str) -> str | list[dict[str, Any]]:
    if isinstance(output, str):
        return output
    if not isinstance(output, list):
        raise invalid(f"'{at}.output' must be a string or a list", f"{at}.output", "invalid_type")
    return [_check_part(part, f"{at}.output[{number}]") for number, part in enumerate(output)]


_ROLES = frozenset({"user", "assistant", "system", "developer"})
_PHASES = ("commentary", "final_answer")
_SOURCES = {"input_image": ("image_url", "file_id"), "input_file": ("file_data", "file_url", "file_id")}
"""Where the bytes of a part are; all of them travel within the bound of an item."""
_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}


def _check_message(item: dict[str, Any], at: str) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"'{at}.role' must be user, assistant, system or developer", f"{at}.role")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": content}]
    if not isinstance(content, list):
        raise invalid(f"'{at}.content' must be a string or a list", f"{at}.content", "invalid_type")
    parts = [_check_part(part, f"{at}.content[{number}]") for number, part in enumerate(content)]
    message = {"type": "message", "role": role, "status": "completed", "content": parts}
    phase = item.get("phase")
    if phase is not None and role == "assistant":
        if phase not in _PHASES:
            raise invalid(f"'{at}.phase' must be commentary or final_answer", f"{at}.phase")
        message["phase"] = phase
    return message


def _check_part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise invalid(f"'{where}' must be an object with a type", where, "invalid_type")
    if kind in _PARTS:
        if not isinstance(part.get(_PARTS[kind]), str):
            raise invalid(f"'{where}.{_PARTS[kind]}' must be a string", f"{where}.{_PARTS[kind]}", "invalid_type")
    elif kind not in _SOURCES:
        raise invalid(f"'{where}.type' is not a type of content that can be sent", f"{where}.type")
    if kind == "output_text":
        return {"annotations": [], "logprobs": [], **part}
    for name in _SOURCES.get(kind, ()):
        if part.get(name) is not None and not isinstance(part[name], str):
            raise invalid(f"'{where}.{name}' must be a string", f"{where}.{name}", "invalid_type")
    if kind in _SOURCES and not any(part.get(name) for name in _SOURCES[kind]):
        raise invalid(f"'{where}' must have one of {', '.join(_SOURCES[kind])}", where)
    if kind == "input_image":
        return {"detail": "auto", **part}
    return dict(part)
