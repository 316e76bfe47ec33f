"""The choice of tools that a request makes, in the shapes in which clients send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrt.models.base import ModelRequest, ToolSpec

__all__ = ["chosen", "of_these", "offered", "relaxed"]


def offered(request: ModelRequest) -> Sequence[ToolSpec]:
    """The tools in the given order; `allowed_tools` is enforced by leaving others out, for providers without it."""
    choice = request.tool_choice
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return request.tools
    allowed = {chosen(tool) for tool in choice.get("tools", ())}
    return [tool for tool in request.tools if tool.name in allowed]


def relaxed(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """The choice once a call was made: one that was forced is free, or the model would make the same call for ever."""
    if isinstance(choice, str):
        return "auto" if choice == "required" else choice
    return {**choice, "mode": "auto"} if choice.get("type") == "allowed_tools" else "auto"


def of_these(choice: str | dict[str, Any], names: Sequence[str]) -> str | dict[str, Any]:
    """The choice where only these tools may be called, of all that a model is told of."""
    if choice == "none" or not names:
        return "none"
    mode, left = choice if isinstance(choice, str) else choice.get("mode", "auto"), list(names)
    if isinstance(choice, dict) and choice.get("type") != "allowed_tools":
        if chosen(choice) in names:
            return choice
        mode = "auto"
    elif isinstance(choice, dict):
        allowed = {chosen(tool) for tool in choice.get("tools", ())}
        left = [name for name in names if name in allowed]
    if not left:
        return "none"
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in left]}


def chosen(choice: Mapping[str, Any]) -> Any:
    """The name of the tool that a choice names, in the shape of Responses or of Chat."""
    nested = choice.get("function")
    return nested.get("name") if isinstance(nested, Mapping) else choice.get("name")
