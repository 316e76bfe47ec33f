"""Agents for the tests of clients: they call the client's tools, ask for approvals, reason, and show what they got."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from agentrt.agent import Agent, Limits
from agentrt.errors import ModelError
from agentrt.models.base import Finished, ModelEvent, ModelRequest, ReasoningDone, TextDelta, ToolCall
from agentrt.models.scripted import SCRIPTS, last_user_text
from agentrt.records import Usage
from agentrt.tools.function import tool
from tests.harness.agents import note, read


def caller(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Calls the client's tools, all at once, each with the user's text; then says what they answered."""
    outputs = [item.data["output"] for item in request.items if item.type == "function_call_output"]
    if request.items[-1].type == "function_call_output":
        yield TextDelta("They said: " + ", ".join(map(str, outputs)))
        return
    yield TextDelta("Let me see.")
    for number, spec in enumerate(request.tools):
        text = orjson.dumps({"city": last_user_text(request.items)}).decode()
        yield ToolCall(f"call_{number}", spec.name, text)


def shell(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Has the client run what the user says as a command, if it has a tool for that; then says what came of it."""
    last = request.items[-1]
    if last.type == "function_call_output":
        yield TextDelta(f"It said: {last.data['output']}")
        return
    for spec in request.tools:
        known = spec.parameters.get("properties", {})
        if "cmd" in known or "command" in known:
            said = last_user_text(request.items)
            command = {"cmd": said} if "cmd" in known else {"command": _as(known["command"], said)}
            yield ToolCall("call_0", spec.name, orjson.dumps(command).decode())
            return
    yield TextDelta("I have no shell.")


def _as(schema: Any, command: str) -> str | list[str]:
    return ["bash", "-lc", command] if schema.get("type") == "array" else command


def mirror(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """What reached the model, as JSON: the request's options, and its items with their private data."""
    seen = {
        "items": [{**item.data, "private": item.private} for item in request.items],
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "text_format": request.text_format,
        "reasoning": request.reasoning,
        "tool_choice": request.tool_choice,
        "tools": [[spec.name, spec.strict] for spec in request.tools],
    }
    yield TextDelta(orjson.dumps(seen).decode())
    yield Finished("stop", Usage(100, 10, 60, 4))


def thinker(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Thinks, then answers with what it finds of its own earlier thoughts."""
    thoughts = [item for item in request.items if item.type == "reasoning"]
    yield ReasoningDone(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"data": {"signature": "s-1"}}
    )
    yield TextDelta(orjson.dumps([item.private for item in thoughts]).decode())


def refusing(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Has something done, and then cannot be asked any more, for good."""
    if request.items[-1].type != "mcp_call":
        yield ToolCall("call", "note", "{}")
        return
    raise ModelError("the key is not valid", retryable=False)


def broken(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Fails for good, or for now; after some text where the user names some."""
    words = last_user_text(request.items).split()
    if "text" in words:
        yield TextDelta("half a ")
        yield 0.02
    if "refuse" in words:
        raise ModelError("the prompt is not allowed", code="invalid_prompt", retryable=False)
    raise ModelError("too many", code="rate_limit_exceeded", retryable=True, retry_after_s=30)


def endless(request: ModelRequest) -> Iterable[ModelEvent | float]:
    """Calls `read` three times a step, for as long as it may."""
    if request.tool_choice != "none":
        for number in range(3):
            yield ToolCall(f"call_{number}", "read", "{}")
    else:
        yield TextDelta("no calls are left")


@tool(approval=True)
async def pay() -> str:
    """Pay, once somebody approved."""
    return "paid"


SCRIPTS.update(
    caller=caller, shell=shell, mirror=mirror, thinker=thinker, broken=broken, endless=endless, refusing=refusing
)

agents = [
    Agent("echo", model="scripted:echo"),
    Agent("caller", model="scripted:caller"),
    Agent("shell", model="scripted:shell"),
    Agent("mirror", model="scripted:mirror", instructions="Be a mirror."),
    Agent("thinker", model="scripted:thinker"),
    Agent("broken", model="scripted:broken", limits=Limits(model_attempts=1)),
    Agent("refusing", model="scripted:refusing", tools=[note]),
    Agent("endless", model="scripted:endless", tools=[read]),
    Agent("worker", model="scripted:worker", tools=[note, read, pay]),
    Agent("slow", model="scripted:slow"),
]
with_provider = [
    *agents,
    Agent("remote", model="openai:gpt-test", limits=Limits(model_attempts=1)),
    Agent("remote-claude", model="anthropic:claude-test", limits=Limits(model_attempts=1)),
]
"""With some whose providers are wherever OPENAI_BASE_URL and ANTHROPIC_BASE_URL say."""
