"""A pod's runtime in this process with an extractor that a test holds in its hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from agentrt.agent import Agent, Limits, Memory
from agentrt.models.base import ModelEvent, ModelRequest, TextDelta, ToolCall
from agentrt.models.scripted import last_user_text
from agentrt.store.keys import UserKeys
from tests.runtime.conftest import Runtime, running

USER = UserKeys("dev", "u1")

Answer = Callable[[ModelRequest], Iterable[ModelEvent | float]]


class Tongue:
    """The extractor: `answers` by message; an exception is raised, a text is answered as it is."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def __call__(self, request: ModelRequest) -> Iterable[ModelEvent]:
        message = str(orjson.loads(last_user_text(request.items))["message"])
        self.asked.append(message)
        answer = self.answers.get(message, [])
        if isinstance(answer, Exception):
            raise answer
        yield ToolCall(
            "c", "record_facts", answer if isinstance(answer, str) else orjson.dumps({"facts": answer}).decode()
        )


def stated(attribute: str, value: str, quote: str, **more: Any) -> dict[str, Any]:
    """A fact as an extractor states it."""
    return {"attribute": attribute, "value": value, "quote": quote, "confidence": 0.95, **more}


def seen_by(heard: list[ModelRequest]) -> Answer:
    """A model that answers `ok` and keeps what it was asked."""

    def answer(request: ModelRequest) -> Iterable[ModelEvent]:
        heard.append(request)
        yield TextDelta("ok")

    return answer


@asynccontextmanager
async def inside(
    redis_url: str, tongue: Answer, heard: list[ModelRequest] | None = None, **more: Any
) -> AsyncIterator[Runtime]:
    """A runtime with the agent `a`: model `test:m`, extractor `test:x`; `more` models by name."""
    memory: Mapping[str, Any] = more.pop("memory", {})
    agent = Agent(
        "a",
        model="test:m",
        instructions="Be kind.",
        memory=Memory(**{"extractor": "test:x", **memory}),
        limits=more.pop("limits", Limits()),
    )
    answers: dict[str, Any] = {"m": seen_by([] if heard is None else heard), "x": tongue, **more.pop("more", {})}
    async with running(redis_url, [agent], answers, **more) as runtime:
        yield runtime


async def idle(runtime: Runtime) -> None:
    """Wait until no job is left to do."""
    async with asyncio.timeout(60):
        while (await runtime.services.jobs.backlog()).jobs:
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], Any], bound_s: float = 30) -> None:
    """Wait until an async condition holds."""
    async with asyncio.timeout(bound_s):
        while not await condition():
            await asyncio.sleep(0.01)


async def states(runtime: Runtime, user: UserKeys = USER) -> dict[tuple[str, str, str], str]:
    """(attribute, value, polarity) -> state of all facts."""
    facts = await runtime.surface.people.facts(user, 0)
    return {(one["attribute"], one["value"], one["polarity"]): one["state"] for one in facts}
