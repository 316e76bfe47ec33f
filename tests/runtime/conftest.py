"""A pod's runtime in this process, on a real Redis: everything but the HTTP surface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest

from agentrt.agent import Agent
from agentrt.assembly import Blueprint, Deps, build
from agentrt.http.auth import Keys
from agentrt.http.surface import Surface
from agentrt.models.base import ModelEvent, ModelRequest
from agentrt.models.scripted import ScriptedModel
from agentrt.records import Request
from agentrt.runtime.admission import Place
from agentrt.runtime.turn import TurnEnd
from agentrt.settings import Settings
from agentrt.store.begin import Begin
from agentrt.store.keys import SessionKeys, new_id
from agentrt.telemetry import Telemetry

Answer = Callable[[ModelRequest], Iterable[ModelEvent | float]]


class Runtime:
    """One pod's runtime, and short ways to give it messages."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.services = surface.services
        self.admission = surface.admission
        self.following = surface.following

    @property
    def writes(self) -> int:
        """Writes to the state connection so far: units that left together count once."""
        return self.services.sessions._redis.stats.writes

    def begin(self, agent: str, text: str, **changes: Any) -> Begin:
        """What a request for `text` in a new session wants; `changes` replace fields of it."""
        request = Request(agent, 1, changes.pop("options", {}))
        inputs = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]
        wanted: dict[str, Any] = {
            "session": SessionKeys("dev", new_id()),
            "run": new_id(),
            "token": new_id(),
            "fingerprint": text,
            "agent": agent,
            "request": request.encode(),
            "input": orjson.dumps(inputs),
            "create": True,
        }
        return Begin(**{**wanted, **changes})

    async def enter(self, want: Begin) -> Place:
        place = await self.admission.enter(want)
        if place.owned is not None and place.owned.record is None:
            place.request = Request.decode(want.request)
            place.inputs = orjson.loads(want.input)
        return place

    async def turn(self, agent: str, text: str, **changes: Any) -> tuple[Begin, TurnEnd]:
        """One whole turn on this pod."""
        want = self.begin(agent, text, **changes)
        end = await self.admission.run(await self.enter(want))
        assert end is not None
        return want, end


@asynccontextmanager
async def running(
    redis_url: str,
    agents: list[Agent],
    answers: Mapping[str, Answer] | None = None,
    pod: str = "pod",
    deps: Deps | None = None,
    **settings: Any,
) -> AsyncIterator[Runtime]:
    """A runtime whose models `test:<name>` answer by the given functions."""
    given = {f"test:{name}": ScriptedModel(name, answer) for name, answer in (answers or {}).items()}
    async with AsyncExitStack() as stack:
        of = {agent.name: agent for agent in agents}
        config = Settings(redis_url=redis_url, pod=pod, **settings)
        surface = await build(stack, Blueprint(config, of, Keys(None, ""), Telemetry(), given, deps))
        yield Runtime(surface)


@pytest.fixture
def body() -> Callable[[TurnEnd], dict[str, Any]]:
    """The final response body of a turn."""
    return lambda end: dict(orjson.loads(end.result))
