"""Asking an adapter, as every test of one does."""

from __future__ import annotations

import pytest

from agentrt.errors import ModelError
from agentrt.models.base import Model, ModelEvent, ModelRequest
from agentrt.records import Item

KEY = "sk-very-secret"
PROMPT = "my private question"
REQUEST = ModelRequest([Item.of({"type": "message", "role": "user", "content": PROMPT})])
STATUSES = [
    (400, "invalid_prompt", False),
    (401, "server_error", False),
    (403, "server_error", False),
    (404, "server_error", False),
    (408, "server_error", True),
    (409, "server_error", True),
    (413, "invalid_prompt", False),
    (422, "invalid_prompt", False),
    (500, "server_error", True),
    (503, "server_error", True),
    (529, "server_error", True),
]
"""What a provider's status is to a client: (status, code of the error, whether it may pass)."""


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
