"""The choice of tools that a request makes, in the shapes in which clients send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrt.models.base import ModelRequest, ToolSpec

__all__ = ["chosen", "offered"]


def offered(request: ModelRequest) -> Sequence[ToolSpec]:
    """The tools in the given order; `allowed_tools` is enforced by leaving others out, for providers without it."""
    choice = request.tool_choice
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return request.tools
    allowed = {chosen(tool) for tool in choice.get("tools", ())}
    return [tool for tool in request.tools if tool.name in allowed]


def chosen(choice: Mapping[str, Any]) -> Any:
    """The name of the tool that a choice names, in the shape of Responses or of Chat."""
    nested = choice.get("function")
    return nested.get("name") if isinstance(nested, Mapping) else choice.get("name")
