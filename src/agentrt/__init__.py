"""agentrt: any pod serves any request; any pod may die at any instruction."""

from agentrt.agent import Agent, Effect, Limits, Memory, ToolContext
from agentrt.app import create_app
from agentrt.errors import ToolError
from agentrt.tools.function import tool

__all__ = ["Agent", "Effect", "Limits", "Memory", "ToolContext", "ToolError", "create_app", "tool"]
