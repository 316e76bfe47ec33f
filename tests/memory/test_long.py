"""A long conversation: the context stays within its budget, a turn costs what it cost, and the beginning is known.

`AGENTRT_MEMORY_TURNS` says how long; `make memory-long`: 2,000.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

from agentrt.agent import Limits
from agentrt.memory.tokens import estimate
from agentrt.models.anthropic_messages import system_and_messages
from agentrt.models.base import ModelRequest
from agentrt.models.openai_wire import input_items
from agentrt.models.scripted import texts
from tests.memory.inside import Tongue, idle, inside, stated

TURNS = int(os.environ.get("AGENTRT_MEMORY_TURNS", "200"))
BUDGET = 3_000


def _valid(request: ModelRequest) -> None:
    """What both providers would be sent: roles that they take, no empty content, the question last."""
    for entry in input_items(request.items):
        assert entry["role"] in {"user", "assistant"}
        assert entry["content"]
    messages: list[Any] = system_and_messages(request.items)[1]
    assert messages[0]["role"] == messages[-1]["role"] == "user"
    assert all(one["role"] != other["role"] for one, other in pairwise(messages))
    assert all(message["content"] for message in messages)


async def test_a_long_conversation(redis_url: str) -> None:
    tongue, heard, said = Tongue(), [], "By the way, I'm allergic to penicillin and my boat is called Ida."
    tongue.answers[said] = [
        stated("allergy", "penicillin", "I'm allergic to penicillin"),
        stated("boat", "Ida", "my boat is called Ida", card="one"),
    ]
    sizes, writes = [], []
    async with inside(redis_url, tongue, heard, limits=Limits(context_tokens=BUDGET), memory_jobs=2) as runtime:
        want, _ = await runtime.turn("a", said, user="u1")
        for number in range(TURNS):
            text = f"Turn {number}: we talk of the garden, of bed {number % 50}, and of the weather in week {number}."
            before = runtime.services.sessions._redis.stats.units
            _, end = await runtime.turn("a", text, user="u1", session=want.session, create=False)
            writes.append(runtime.services.sessions._redis.stats.units - before)
            assert end.status == "completed"
            request = heard.pop()
            heard.clear()
            sizes.append(sum(estimate(item.raw.decode()) for item in request.items))
            assert sizes[-1] <= BUDGET
            assert "penicillin" in texts(request.items[0]) or number < 45
            if number % 100 == 0:
                _valid(request)
        await idle(runtime)
        await runtime.turn("a", "What is my boat called?", user="u1", session=want.session, create=False)
        assert "Ida" in "\n".join(texts(item) for item in heard[-1].items)
        summary = await runtime.services.users.summary(want.session)
        assert len(summary.raw) < 20_000
        # The cost of a turn in units sent to Redis, the jobs' own left out by the median: flat.
        early, late = sorted(writes[50:150]), sorted(writes[-100:])
        assert late[50] <= early[50] + 2
        # A full context is as large late as early.
        assert max(sizes[-100:]) <= BUDGET
