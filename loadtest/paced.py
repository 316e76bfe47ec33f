"""Agents for benchmarks: models that take their time, as the message asks for it."""

from __future__ import annotations

from collections.abc import Iterable

from agentrt.agent import Agent
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.models.scripted import SCRIPTS, last_user_text
from loadtest.pace import pieces

__all__ = ["agents", "paced"]


def paced(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """What `pieces` says to the user's last message."""
    for piece in pieces(last_user_text(request.items)):
        yield piece if isinstance(piece, float) else TextDelta(piece)


SCRIPTS["paced"] = paced
agents = [Agent("paced", model="scripted:paced"), Agent("echo", model="scripted:echo")]
