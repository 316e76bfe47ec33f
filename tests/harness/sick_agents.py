"""The agents of `tests.harness.agents`, and two more that no customer wants: one always fails, one is late."""

from __future__ import annotations

from collections.abc import Iterable

from agentrt.agent import Agent
from agentrt.errors import ModelError
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.models.scripted import SCRIPTS
from tests.harness.agents import agents as healthy


def failing(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Refuses whatever it is asked."""
    raise ModelError("scripted: it does not want to", retryable=False)
    yield 0.0


def late(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Says its first word after more than five seconds."""
    yield 5.2
    yield TextDelta("sorry")


SCRIPTS["failing"] = failing
SCRIPTS["late"] = late

agents = [*healthy, Agent("failing", model="scripted:failing"), Agent("late", model="scripted:late")]
