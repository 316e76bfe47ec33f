"""What the model gets to see: instructions, remembered text, window, input, what the run did so far. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrt.agent import Agent
from agentrt.memory import summary
from agentrt.memory.block import Block
from agentrt.memory.tokens import item_tokens
from agentrt.memory.window import newest
from agentrt.models.base import ModelRequest, ToolSpec
from agentrt.records import Item, Items, Request

__all__ = ["build", "client_tools", "fitting", "size", "tool_specs"]


def tool_specs(agent: Agent) -> tuple[ToolSpec, ...]:
    """The agent's tools as a model sees them, in an order that stays: prompt caches live on equal bytes."""
    return tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in agent.offered)


def client_tools(request: Request) -> tuple[ToolSpec, ...]:
    """The function tools that the client runs itself; tools of other types are not for this model."""
    specs = []
    for tool in request.options.get("tools", ()):
        if tool.get("type") == "function" and isinstance(tool.get("name"), str):
            parameters: dict[str, Any] = tool.get("parameters") or {"type": "object", "properties": {}}
            specs.append(ToolSpec(tool["name"], tool.get("description") or "", parameters, bool(tool.get("strict"))))
    return tuple(specs)


def size(items: Sequence[Item], enough: int) -> int:
    """Tokens of items, estimated; a token is at least a byte, so they are counted only where that matters."""
    tokens = sum(len(item.raw) for item in items)
    return tokens if tokens <= enough else sum(item_tokens(item.raw) for item in items)


def fitting(
    said: Sequence[Item], done: Sequence[Item], budget: int, *, cut: bool
) -> tuple[Sequence[Item], Sequence[Item]]:
    """The run's input and what it did so far. `cut`: without the oldest of the input where it would not fit."""
    if not cut or size([*said, *done], budget) <= budget:
        return said, done
    return newest(Items(said), max(0, budget - size(done, 0))), done


def build(  # noqa: PLR0913 - the parts of a prompt
    agent: Agent,
    request: Request,
    window: Items,
    new: Sequence[Item],
    *,
    specs: Sequence[ToolSpec],
    tool_choice: str | dict[str, Any] = "auto",
    cache_key: str,
    output_tokens: int | None = None,
    context_tokens: int | None = None,
    remembered: Block | None = None,
) -> ModelRequest:
    """The model request of one step.

    `window` is the history, `new` the run's input and what it produced so far. The new items go in whole, and so
    does what is remembered; the history gets what is left of the budget. What is remembered is a message of its own:
    data, never a part of the instructions. `output_tokens`: what the request still allows. `context_tokens`: the
    budget, as tokens are counted here; None: the agent's.
    """
    options = request.options
    if request.compact:
        new = [*new, summary.hand_over()]
    instructions = "\n\n".join(text for text in (agent.instructions, options.get("instructions") or "") if text)
    spent = sum(len(item.raw) if len(item.raw) < 4000 else 4 * item_tokens(item.raw) for item in new) // 4
    past = remembered.item if remembered is not None else None
    if past is not None:
        spent += len(past.raw) // 3
    budget = agent.limits.context_tokens if context_tokens is None else context_tokens
    history = newest(window, max(0, budget - spent))
    return ModelRequest(
        items=(history.preceded_by(past) if past is not None else history).followed_by(new),
        instructions=instructions,
        tools=specs,
        tool_choice=tool_choice,
        parallel_tool_calls=options.get("parallel_tool_calls", True),
        max_output_tokens=output_tokens or agent.max_output_tokens,
        temperature=options.get("temperature", agent.temperature),
        top_p=options.get("top_p"),
        text_format=(options.get("text") or {}).get("format"),
        reasoning=options.get("reasoning"),
        cache_key=cache_key,
    )
