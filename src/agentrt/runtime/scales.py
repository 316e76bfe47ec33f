"""How many tokens a provider counts for one that is counted here, by model: learned from the usage that it reports.

Each pod learns for itself, within a few replies. What is believed grows at once and shrinks slowly, so that budgets
hold for prompts that are dearer than the average, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from agentrt.agent import Agent
from agentrt.memory.tokens import count, item_tokens
from agentrt.models.base import ModelRequest, ToolSpec

__all__ = ["Scales", "counted"]

_LEAST, _MOST = 0.25, 4.0
_SHRINK = 0.1
_TOKENS_MIN = 200
"""Shorter prompts say more about what a provider adds than about how it counts."""
_EACH = 16
"""Behind the first replies one of so many is looked at: counting costs CPU."""


class Scales:
    """The scales of the models that a pod asks."""

    def __init__(self) -> None:
        self._scales: dict[str, float] = {}
        self._replies: dict[str, int] = {}

    def of(self, model: str) -> float:
        """Tokens of the provider's for one of ours; 1 as long as nothing is known."""
        return self._scales.get(model, 1.0)

    def budget(self, agent: Agent) -> int:
        """The tokens, as counted here, that fill the context of an agent."""
        return int(agent.limits.context_tokens / self.of(agent.models[0]))

    def learn(self, model: str, request: ModelRequest, reported: int) -> None:
        """A model of this full name has counted `reported` tokens of input for a request."""
        number = self._replies[model] = self._replies.get(model, 0) + 1
        if reported <= 0 or (number > _EACH and number % _EACH):
            return
        ours = counted(request)
        if ours < _TOKENS_MIN or any(b'"data:' in item.raw for item in request.items):
            return
        seen = min(_MOST, max(_LEAST, reported / ours))
        known = self.of(model)
        self._scales[model] = seen if seen > known else known + (seen - known) * _SHRINK


def counted(request: ModelRequest) -> int:
    """The tokens of a whole request, as counted here."""
    said = sum(item_tokens(item.raw) for item in request.items)
    return said + count(request.instructions) + _tools(request.tools)


def _tools(specs: Sequence[ToolSpec]) -> int:
    return sum(count(f"{one.name} {one.description} {orjson.dumps(one.parameters).decode()}") for one in specs)
