"""Chat Completions as it is asked for: parameters by the names of the Responses API, messages as items. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentrt.http.body import check_options, check_user
from agentrt.http.errors import ApiError, invalid

__all__ = ["Messages", "asked_options"]

_SAME = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "service_tier"}
    | {"safety_identifier", "user", "prompt_cache_key", "metadata"}
)
_CANNOT = {
    "stop": "stop sequences",
    "functions": "'functions'; use 'tools'",
    "function_call": "'function_call'; use 'tool_choice'",
    "audio": "audio",
    "logprobs": "log probabilities",
    "logit_bias": "'logit_bias'",
}
"""What would change the answer and cannot be had: refused, where anything else unknown is ignored."""


def asked_options(body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of the run, and the user. Raises a 400 that names the chat's own parameter."""
    for name, what in _CANNOT.items():
        if body.get(name):
            raise invalid(f"{what} cannot be had here", name, "unsupported_parameter")
    if body.get("n") is not None and body["n"] != 1:
        raise invalid("'n' can only be 1", "n", "unsupported_parameter")
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    wanted = {name: body[name] for name in _SAME if name in body}
    wanted["max_output_tokens"] = body.get(limit)
    wanted["tool_choice"] = _tool_choice(body.get("tool_choice"))
    wanted["tools"] = _tools(body.get("tools"))
    wanted["text"] = _text(body.get("response_format"))
    if body.get("reasoning_effort") is not None:
        wanted["reasoning"] = {"effort": body["reasoning_effort"]}
    theirs = {"max_output_tokens": limit, "text": "response_format", "reasoning.effort": "reasoning_effort"}
    try:
        return check_options(wanted), check_user(wanted)
    except ApiError as error:
        whole = error.param or ""
        ours, _, rest = (whole, "", "") if whole in theirs else whole.partition(".")
        if ours not in theirs:
            raise
        param = theirs[ours] + (f".{rest}" if rest else "")
        raise invalid(str(error).replace(f"'{ours}", f"'{theirs[ours]}", 1), param, error.code) from None


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("allowed_tools"), dict):
        allowed = choice["allowed_tools"]
        return {"type": "allowed_tools", "mode": allowed.get("mode", "auto"), "tools": _tools(allowed.get("tools"))}
    return _flat(choice)


def _tools(tools: Any) -> Any:
    if not isinstance(tools, list):
        return tools
    return [_flat(tool) if isinstance(tool, dict) else tool for tool in tools]


def _flat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """`{"type": "function", "function": {...}}` as the Responses API writes it. Strict only where it was said."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return dict(tool)
    return {"strict": False, **function, "type": "function"}


def _text(wanted: Any) -> Any:
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return {"format": {"type": "json_schema", **wanted["json_schema"]}}
    if kind in ("text", "json_object"):
        return {"format": {"type": kind}}
    raise invalid("'response_format' must be of type text, json_object or json_schema", "response_format")


_Items = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Messages:
    """The items that stand for the messages, and for each the message that it came from, for errors."""

    items: list[dict[str, Any]]
    names: list[str]

    @classmethod
    def read(cls, value: Any) -> Messages:
        """Raises a 400 that names the message."""
        if not isinstance(value, list) or not value:
            raise invalid("'messages' must be a list of messages", "messages", "invalid_type")
        items, names = [], []
        for number, message in enumerate(value):
            at = f"messages[{number}]"
            if not isinstance(message, dict):
                raise invalid(f"'{at}' must be an object", at, "invalid_type")
            for item in _items(message, at):
                items.append(item)
                names.append(at)
        if not items:
            raise invalid("'messages' say nothing", "messages")
        return cls(items, names)


def _items(message: Mapping[str, Any], at: str) -> _Items:
    role = message.get("role")
    match role:
        case "system" | "developer" | "user":
            yield {"role": role, "content": _content(message.get("content"), f"{at}.content")}
        case "assistant":
            yield from _assistant(message, at)
        case "tool":
            output = _content(message.get("content"), f"{at}.content")
            if not isinstance(message.get("tool_call_id"), str):
                raise invalid(f"'{at}.tool_call_id' must be a string", f"{at}.tool_call_id", "invalid_type")
            yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        case _:
            text = f"'{at}.role' must be system, developer, user, assistant or tool"
            raise invalid(text, f"{at}.role")


def _assistant(message: Mapping[str, Any], at: str) -> _Items:
    content: list[dict[str, Any]] = []
    said = message.get("content")
    if isinstance(said, str):
        content += [{"type": "output_text", "text": said}] if said else []
    elif said is not None:
        content += [_said(part, f"{at}.content") for part in _parts(said, f"{at}.content")]
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        content.append({"type": "refusal", "refusal": message["refusal"]})
    if content:
        yield {"role": "assistant", "content": content}
    calls = message.get("tool_calls")
    for number, call in enumerate(_parts([] if calls is None else calls, f"{at}.tool_calls")):
        where = f"{at}.tool_calls[{number}]"
        function = call.get("function")
        if not isinstance(function, dict):
            raise invalid(f"'{where}.function' must be an object", where, "invalid_type")
        names = {"call_id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
        yield {"type": "function_call", **names}


def _parts(value: Any, at: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise invalid(f"'{at}' must be a list of objects", at, "invalid_type")
    return value


def _said(part: Mapping[str, Any], at: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": "output_text", "text": part.get("text")}
        case "refusal":
            return {"type": "refusal", "refusal": part.get("refusal")}
    raise invalid(f"'{at}' of an assistant is text or a refusal", at)


def _content(value: Any, at: str) -> Any:
    """A string, or the content parts of an input."""
    if isinstance(value, str):
        return value
    return [_part(part, f"{at}[{number}]") for number, part in enumerate(_parts(value, at))]


def _part(part: Mapping[str, Any], at: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": "input_text", "text": part.get("text")}
        case "image_url":
            image = part.get("image_url")
            if isinstance(image, str):
                image = {"url": image}
            if not isinstance(image, dict) or not isinstance(image.get("url"), str):
                raise invalid(f"'{at}.image_url' must have a url", f"{at}.image_url", "invalid_type")
            return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto"}
        case "file":
            file = part.get("file")
            if not isinstance(file, dict):
                raise invalid(f"'{at}.file' must be an object", f"{at}.file", "invalid_type")
            return {"type": "input_file", **{name: file[name] for name in _FILE if isinstance(file.get(name), str)}}
    raise invalid(f"'{at}.type' must be text, image_url or file", f"{at}.type")


_FILE = ("file_data", "file_id", "filename")
