"""Reading and checking request bodies: bounded by the bytes that arrive, every fault named by its parameter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from agentrt.http.errors import ApiError, invalid
from agentrt.store.keys import is_name

__all__ = ["Bounds", "check_metadata", "check_options", "check_user", "is_number", "read_json"]

_DEPTH_MAX = 128
"""Deepest nesting of a body: what is stored wraps it a little deeper, and JSON writers have bounds of their own."""
_DIGITS_MAX = 12
_LINGER_S = 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Longest body and item in bytes, most items in one request."""

    body_bytes_max: int
    item_bytes_max: int
    items_max: int


async def read_json(request: Request, bounds: Bounds) -> dict[str, Any]:
    """The body as a JSON object. Raises 413 as soon as more bytes came than allowed, 400 for anything but an object."""
    declared = request.headers.get("content-length", "")
    if len(declared) > _DIGITS_MAX or (is_number(declared) and int(declared) > bounds.body_bytes_max):
        raise await _too_large(request, bounds)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bounds.body_bytes_max:
            raise await _too_large(request, bounds)
        chunks.append(chunk)
    raw = b"".join(chunks)
    try:
        value = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", None, "invalid_type")
    if raw.count(b"[") + raw.count(b"{") > _DEPTH_MAX and _depth(value) > _DEPTH_MAX:
        raise invalid(f"the body is nested more than {_DEPTH_MAX} levels deep", None, "invalid_json")
    return value


def _depth(value: Any) -> int:
    """Levels of nesting; by a list of what is still to be looked at, not by recursion."""
    deepest, open_ = 0, [(value, 1)]
    while open_ and deepest <= _DEPTH_MAX:
        inner, depth = open_.pop()
        deepest = max(deepest, depth)
        children = inner.values() if isinstance(inner, dict) else inner
        open_ += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    return deepest


def is_number(text: str) -> bool:
    """Whether `text` is a plain whole number of a length that is worth converting."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


async def _too_large(request: Request, bounds: Bounds) -> ApiError:
    """The 413, after the client had a moment to finish: a connection closed under its hands would hide the answer."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_LINGER_S):
            async for _ in request.stream():
                pass
    return ApiError(413, "body_too_large", f"the body is longer than {bounds.body_bytes_max} bytes")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _real(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 32 and all(isinstance(text, str) for text in value)


def _choice(value: Any) -> bool:
    """A mode, one tool, or some: the adapters trust these shapes. A tool is named as in Responses or as in Chat."""
    if not isinstance(value, dict):
        return isinstance(value, str) and value in _CHOICES
    if value.get("type") != "allowed_tools":
        return isinstance(value.get("type"), str) and isinstance(_named(value), str)
    mode, tools = value.get("mode", "auto"), value.get("tools")
    if not isinstance(tools, list) or not isinstance(mode, str) or mode not in _CHOICES:
        return False
    return all(isinstance(tool, dict) and isinstance(_named(tool), str | None) for tool in tools)


def _named(tool: Mapping[str, Any]) -> Any:
    nested = tool.get("function")
    return nested.get("name") if isinstance(nested, dict) else tool.get("name")


_CHOICES = frozenset({"none", "auto", "required"})
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_MANY = 2**31
_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "instructions": (_text, "a string"),
    "temperature": (_real(0, 2), "a number from 0 to 2"),
    "top_p": (_real(0, 1), "a number from 0 to 1"),
    "max_output_tokens": (_whole(1, _MANY), "a whole number of at least 1"),
    "max_tool_calls": (_whole(1, _MANY), "a whole number of at least 1"),
    "top_logprobs": (_whole(0, 20), "a whole number from 0 to 20"),
    "presence_penalty": (_real(-2, 2), "a number from -2 to 2"),
    "frequency_penalty": (_real(-2, 2), "a number from -2 to 2"),
    "parallel_tool_calls": (_boolean, "true or false"),
    "tool_choice": (_choice, "`none`, `auto`, `required`, or an object that names a tool, or tools that are allowed"),
    "truncation": (lambda value: isinstance(value, str) and value in {"auto", "disabled"}, "`auto` or `disabled`"),
    "store": (_boolean, "true or false"),
    "background": (_boolean, "true or false"),
    "text": (_object, "an object"),
    "reasoning": (_object, "an object"),
    "include": (_texts, "a list of strings"),
    "service_tier": (_text, "a string"),
    "safety_identifier": (_text, "a string"),
    "user": (_text, "a string"),
    "prompt_cache_key": (_text, "a string"),
}


def check_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """The API parameters that were given and are not null, checked. Unknown keys are ignored, as the API does."""
    options: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or (known := _OPTIONS.get(name)) is None:
            continue
        check, wanted = known
        if not check(value):
            raise invalid(f"'{name}' must be {wanted}", name, "invalid_type")
        options[name] = value
    if body.get("metadata") is not None:
        options["metadata"] = check_metadata(body["metadata"])
    if body.get("tools") is not None:
        options["tools"] = _check_tools(body["tools"])
    if "text" in options:
        options["text"] = _check_text(options["text"])
    effort = options.get("reasoning", {}).get("effort")
    if effort is not None and (not isinstance(effort, str) or effort not in _EFFORTS):
        raise invalid("'reasoning.effort' must be none, minimal, low, medium, high, xhigh or max", "reasoning.effort")
    if options.get("background") and options.get("store") is False:
        raise invalid("a response in the background must be stored", "background")
    return options


def _check_text(text: dict[str, Any]) -> dict[str, Any]:
    """`text` with a format in it; a JSON schema has a name and an object."""
    wanted = text.get("format")
    if wanted is None:
        return {**text, "format": {"type": "text"}}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if not isinstance(kind, str) or kind not in {"text", "json_object", "json_schema"}:
        raise invalid("'text.format' must be of type text, json_object or json_schema", "text.format")
    if kind == "json_schema":
        if not isinstance(wanted.get("name"), str) or not is_name(wanted["name"]):
            raise invalid("'text.format.name' must match [A-Za-z0-9_-]{1,64}", "text.format.name")
        if not isinstance(wanted.get("schema"), dict):
            raise invalid("'text.format.schema' must be a JSON schema", "text.format.schema", "invalid_type")
    return text


def check_metadata(value: Any) -> dict[str, str]:
    """At most 16 pairs of strings, 64 and 512 characters long."""
    if not isinstance(value, dict) or len(value) > 16:
        raise invalid("'metadata' must be an object of at most 16 pairs", "metadata", "invalid_type")
    for key, text in value.items():
        if not isinstance(text, str) or len(text) > 512 or len(key) > 64:
            raise invalid(
                "'metadata' maps keys of at most 64 to strings of at most 512 characters", f"metadata.{key[:64]}"
            )
    return value


def check_user(body: Mapping[str, Any]) -> str:
    """The user on whose behalf the client asks, or an empty string."""
    for name in ("safety_identifier", "user"):
        value = body.get(name)
        if value is not None:
            if not isinstance(value, str) or not is_name(value):
                raise invalid(f"'{name}' must match [A-Za-z0-9_-]{{1,64}}", name)
            return value
    return ""


def _check_tools(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise invalid("'tools' must be a list", "tools", "invalid_type")
    tools = []
    for number, tool in enumerate(value):
        at = f"tools[{number}]"
        if not isinstance(tool, dict):
            raise invalid(f"'{at}' must be an object", at, "invalid_type")
        if tool.get("type") != "function":
            continue  # tools of other kinds run at the provider; this runtime has its own
        if not isinstance(tool.get("name"), str) or not is_name(tool["name"]):
            raise invalid(f"'{at}.name' must match [A-Za-z0-9_-]{{1,64}}", f"{at}.name")
        if not isinstance(tool.get("parameters") or {}, dict):
            raise invalid(f"'{at}.parameters' must be a JSON schema", f"{at}.parameters", "invalid_type")
        for name, check, wanted in (("strict", _boolean, "true or false"), ("description", _text, "a string")):
            if tool.get(name) is not None and not check(tool[name]):
                raise invalid(f"'{at}.{name}' must be {wanted}", f"{at}.{name}", "invalid_type")
        tools.append({"strict": None, "parameters": {}, "description": None, **tool})
    return tools
