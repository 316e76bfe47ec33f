"""Agents for the tests of the memory: one that only listens, one that shows what it was given."""

from __future__ import annotations

from collections.abc import Iterable

from agentrt.agent import Agent, Memory
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta
from agentrt.models.scripted import SCRIPTS, texts


def quiet(request: ModelRequest) -> Iterable[ModelEvent]:
    """`ok`, whatever was said."""
    yield TextDelta("ok")


def mirror(request: ModelRequest) -> Iterable[ModelEvent]:
    """All that the model was given, a line an item."""
    yield TextDelta("\n".join([f"instructions: {request.instructions}", *(texts(item) for item in request.items)]))


SCRIPTS["quiet"] = quiet
SCRIPTS["mirror"] = mirror

agents = [
    Agent("memory", model="scripted:quiet", memory=Memory(extractor="openai:extractor")),
    Agent("mirror", model="scripted:mirror", memory=Memory(extractor="openai:extractor")),
    Agent("recall", model="scripted:quiet", memory=Memory(facts=False)),
    Agent("plain", model="scripted:quiet", memory=None),
]
