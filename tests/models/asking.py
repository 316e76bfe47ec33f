"""Asking an adapter, as every test of one does."""

from __future__ import annotations

import pytest

from agentrt.errors import ModelError
from agentrt.models.base import Model, ModelEvent, ModelRequest
from agentrt.records import Item

KEY = "sk-very-secret"
PROMPT = "my private question"
REQUEST = ModelRequest([Item.of({"type": "message", "role": "user", "content": PROMPT})])


async def collect(model: Model, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    """All events of one answer."""
    return [event async for event in model.stream(request)]


async def refused(model: Model, request: ModelRequest = REQUEST) -> ModelError:
    """The error of a question that must fail; it gives away neither the key nor what was asked."""
    with pytest.raises(ModelError) as caught:
        await collect(model, request)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    return caught.value
