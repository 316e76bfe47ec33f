"""The agents of the load test: the demo's, with a model that takes LOAD_PAUSE_MS for each word; and one that holds its
answer back until there is a file LOAD_GATE.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agentrt import demo
from agentrt.agent import Agent
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.models.scripted import SCRIPTS, support

__all__ = ["agents"]

_GATE = Path(os.environ.get("LOAD_GATE", "gate"))
_PAUSE_S = int(os.environ.get("LOAD_PAUSE_MS", "0")) / 1000


def paced(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """As the demo's model answers, a word after the other."""
    for event in support(request):
        if _PAUSE_S:
            yield _PAUSE_S
        yield event


def held(request: ModelRequest) -> Iterable[ModelEvent | float]:  # noqa: ARG001 - whatever it is asked
    """A word, and another one when all may end."""
    yield TextDelta("well ")
    while not _GATE.exists():
        yield 1.0
    yield TextDelta("done")


SCRIPTS["paced"] = paced
SCRIPTS["held"] = held
agents = [
    *(replace(agent, model="scripted:paced") for agent in demo.agents if agent.name == "support"),
    Agent("echo", model="scripted:echo"),
    Agent("held", model="scripted:held"),
]
