"""Asking the model for one reply and reading its stream into the output.

A failed try is asked for again while its error may pass. Nothing of it stays: what it opened is closed as `incomplete`
and given up, so no text reaches a client twice as part of the answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from agentrt.agent import Agent
from agentrt.errors import ModelError
from agentrt.models.base import (
    Finished,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCall,
)
from agentrt.records import Usage
from agentrt.runtime.log import RunLog
from agentrt.runtime.output import Output
from agentrt.runtime.services import Services

__all__ = ["Asking", "Ending", "Reply"]

_BACKOFF_S_MAX = 10.0
"""A provider that asks for more patience than this is answered to the client instead."""


class Ending(Exception):
    """A way out of the steps: the run ends here, with this status and these details."""

    def __init__(self, status: str, **details: Any) -> None:
        super().__init__(status)
        self.status = status
        self.details = details


@dataclass(slots=True)
class Reply:
    """One model reply: the output indexes of its items, the calls it asks this runtime for, and why it stopped."""

    indexes: list[int] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    client_calls: int = 0
    finish: str = "length"
    usage: Usage | None = None


class Asking:
    """Asks one agent's model on behalf of one run."""

    def __init__(
        self,
        services: Services,
        agent: Agent,
        log: RunLog,
        output: Output,
        client_tools: set[str],
        check_cancelled: Callable[[], None],
    ) -> None:
        self._model = services.models(agent.model)
        self._metrics = services.telemetry.model_calls
        self._tracing = services.tracing
        self._agent = agent.name
        self._limits = agent.limits
        self._log = log
        self._output = output
        self._client_tools = client_tools
        self._check_cancelled = check_cancelled

    async def ask(self, request: ModelRequest, step: int) -> Reply:
        """One reply. Raises `ModelError` when the last try failed, `Ending` when the run was cancelled meanwhile."""
        limits = self._limits
        for attempt in range(1, limits.model_attempts + 1):
            try:
                with self._tracing.chat(self._model.provider, self._model.name, self._agent) as span:
                    self._tracing.said(span, [item.raw for item in request.items] if self._tracing.content else ())
                    async with asyncio.timeout(limits.model_timeout_s):
                        reply = await self._read(request, step)
                    usage = reply.usage
                    tokens = (usage.input_tokens, usage.output_tokens) if usage else (None, None)
                    self._tracing.used(span, reply.finish, *tokens)
            except TimeoutError:
                error = ModelError(f"the model took longer than {limits.model_timeout_s:g} s", retryable=True)
            except ModelError as problem:
                error = problem
            else:
                self._metrics.labels(self._model.provider, "ok").inc()
                if attempt > 1:
                    reply.usage = None  # the lost tries cost something that nobody reported
                return reply
            wait_s = error.retry_after_s if error.retry_after_s is not None else 0.5 * 2 ** (attempt - 1)
            last = attempt == limits.model_attempts or not error.retryable or wait_s > _BACKOFF_S_MAX
            self._metrics.labels(self._model.provider, "failed" if last else "retried").inc()
            if last:
                break
            await asyncio.sleep(wait_s * random.uniform(0.75, 1.0))
        raise error

    async def _read(self, request: ModelRequest, step: int) -> Reply:
        reply = Reply()
        first, slot, size = self._output.next_index, None, 0
        private = {"step": step, "provider": self._model.provider}
        try:
            async with aclosing(_stream(self._model, request)) as events:
                async for event in events:
                    if self._log.full:
                        await self._log.room()
                    self._check_cancelled()
                    if isinstance(event, TextDelta | RefusalDelta):
                        kind = "output_text" if isinstance(event, TextDelta) else "refusal"
                        slot = self._output.message_delta(slot, kind, event.text, private)
                        size += len(event.text.encode())
                        if size > self._limits.output_bytes:
                            break  # the reply stays `length`, as it began
                        continue
                    if slot is not None and not isinstance(event, Finished):
                        self._output.message_done(slot)
                        slot = None
                    self._take(event, reply, private)
        except BaseException:
            self._output.give_up(first)
            raise
        if slot is not None:
            self._output.message_done(slot, "incomplete" if reply.finish == "length" else "completed")
        reply.indexes = list(range(first, self._output.next_index))
        return reply

    def _take(self, event: ModelEvent, reply: Reply, private: dict[str, Any]) -> None:
        match event:
            case ReasoningDone():
                self._output.reasoning(event, private)
            case ToolCall() if event.name in self._client_tools:
                self._output.client_call(event, private)
                reply.client_calls += 1
            case ToolCall():
                reply.calls.append(event)
            case Finished():
                reply.finish = event.reason
                reply.usage = event.usage


async def _stream(model: Model, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
    """The model's stream; one that ends without `Finished` was cut."""
    finished = False
    async with aclosing(cast(AsyncGenerator[ModelEvent, None], model.stream(request))) as events:
        async for event in events:
            finished = isinstance(event, Finished)
            yield event
    if not finished:
        raise ModelError("the model's reply was cut off", retryable=True)
