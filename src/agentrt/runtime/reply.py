"""Asking the agent's models for one reply and reading the stream into the output.

A failed try is asked for again, of this model or of the next. Nothing of it stays: what it opened is closed as
`incomplete` and given up, so no text reaches a client twice as part of the answer. Calls are shown when the reply is
whole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from agentrt.agent import Agent
from agentrt.errors import AgentrtError, ModelError
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
from agentrt.models.circuit import Circuit
from agentrt.records import Usage
from agentrt.runtime.log import RunLog
from agentrt.runtime.output import Output, Slot
from agentrt.runtime.services import Services

__all__ = ["Asking", "Ending", "Reply"]

log = logging.getLogger("agentrt.models")

_BACKOFF_S = 0.5
"""Longest pause before the second try; doubled for each further one."""
_LOOK_S = 0.25
"""How often a run that waits for a model looks whether it is still wanted."""


class Ending(Exception):
    """A way out of the steps: the run ends here, with this status and these details."""

    def __init__(self, status: str, **details: Any) -> None:
        super().__init__(status)
        self.status = status
        self.details = details


@dataclass(slots=True)
class Reply:
    """One model reply: whose it is, the output indexes of its items, the calls it asks this runtime and the client
    for, and why it stopped."""

    provider: str
    indexes: list[int] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    client_calls: list[ToolCall] = field(default_factory=list)
    finish: str = "length"
    usage: Usage | None = None


@dataclass(eq=False, slots=True)
class _Candidate:
    """One of the agent's models while a step is asked for."""

    name: str
    model: Model
    circuit: Circuit
    tries: int = 0
    not_before: float = 0.0
    """By the event loop's clock."""
    out: bool = False
    """It failed in a way that will not pass."""


class Asking:
    """Asks one agent's models on behalf of one run.

    The model that answered last is asked first. One that fails makes way for the next at once; there is a pause only
    when none is left that may be asked now: as long as a provider demands, else growing, with jitter.
    """

    def __init__(
        self,
        services: Services,
        agent: Agent,
        log: RunLog,
        output: Output,
        client_tools: set[str],
        check_cancelled: Callable[[], None],
    ) -> None:
        self._services = services
        self._agent = agent
        self._limits = agent.limits
        self._log = log
        self._output = output
        self._client_tools = client_tools
        self._check_cancelled = check_cancelled
        self._answered_last = agent.models[0]

    async def ask(self, request: ModelRequest, step: int) -> Reply:
        """One reply. Raises `ModelError` when no try is left, `Ending` when the run was cancelled meanwhile."""
        candidates = self._candidates()
        loop = asyncio.get_running_loop()
        wait_left_s = self._limits.model_wait_s
        failures: list[ModelError] = []
        while True:
            for one in candidates:
                if one.out or one.not_before > loop.time() or one.circuit.wait_s() > 0:
                    continue
                if one.tries and not one.circuit.retry():
                    one.out = True
                    continue
                answer = await self._try(one, request, step)
                if isinstance(answer, Reply):
                    self._answered_last = one.name
                    if not all(failure.refused for failure in failures):
                        answer.usage = None  # the lost tries cost something that nobody reported
                    return answer
                failures.append(answer)
                self._after(one, answer)
            open_until = [max(one.not_before - loop.time(), one.circuit.wait_s()) for one in candidates if not one.out]
            wait_s = max(0.0, min(open_until, default=0.0))
            if not open_until or wait_s > wait_left_s:
                raise _worst(failures, wait_s)
            wait_left_s -= wait_s
            await self._pause(wait_s)

    def _candidates(self) -> list[_Candidate]:
        models = self._services.models
        names = sorted(self._agent.models, key=lambda name: name != self._answered_last)
        return [_Candidate(name, models(name), models.circuit(name)) for name in names]

    async def _try(self, one: _Candidate, request: ModelRequest, step: int) -> Reply | ModelError:
        """Ask one model once."""
        telemetry = self._services.telemetry
        if one.tries:
            telemetry.model_retries.labels(one.name).inc()
        one.tries += 1
        ticket = one.circuit.begin()
        try:
            reply = await self._traced(one, request, step, partial(one.circuit.answered, ticket))
        except ModelError as error:
            one.circuit.ended(ticket, error)
            log.info("model %s: %s", one.name, error)
            telemetry.model_calls.labels(one.name, _kind(error)).inc()
            return error
        except BaseException:
            one.circuit.abandoned(ticket)
            raise
        one.circuit.ended(ticket, None)
        telemetry.model_calls.labels(one.name, "ok").inc()
        if one.name != self._agent.models[0]:
            telemetry.model_fallbacks.labels(self._agent.name, one.name).inc()
        if reply.usage is not None:
            self._account(one.name, reply.usage)
            if one.model.provider != "scripted":  # which has no tokenizer
                self._services.scales.learn(one.name, request, reply.usage.input_tokens)
        return reply

    async def _traced(self, one: _Candidate, request: ModelRequest, step: int, heard: Callable[[], None]) -> Reply:
        tracing = self._services.tracing
        with tracing.chat(one.model.provider, one.model.name, self._agent.name) as span:
            tracing.said(span, [item.raw for item in request.items] if tracing.content else ())
            reply = await self._bounded(one.model, request, step, heard)
            usage = reply.usage
            tracing.used(span, reply.finish, *((usage.input_tokens, usage.output_tokens) if usage else (None, None)))
            return reply

    def _after(self, one: _Candidate, error: ModelError) -> None:
        """When a model that failed may be asked again, if at all."""
        one.out = not error.retryable or one.tries >= self._limits.model_attempts
        pause_s = _BACKOFF_S * 2 ** (one.tries - 1) * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s * random.uniform(1.0, 1.1)  # never sooner than it was asked for
        one.not_before = asyncio.get_running_loop().time() + pause_s

    async def _bounded(self, model: Model, request: ModelRequest, step: int, heard: Callable[[], None]) -> Reply:
        """One call within its time; cut short when the run is cancelled or lost, however silent the model is."""
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(self._limits.model_timeout_s)
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            if limit.expired():
                return
            timer = loop.call_later(_LOOK_S, look)
            try:
                self._check_stopped()
            except (AgentrtError, Ending):
                limit.reschedule(loop.time())

        try:
            async with limit:
                timer = loop.call_later(_LOOK_S, look)
                return await self._read(model, request, step, heard)
        except TimeoutError:
            self._check_stopped()
            what = f"the model took longer than {self._limits.model_timeout_s:g} s"
            raise ModelError(what, retryable=True) from None
        finally:
            if timer is not None:
                timer.cancel()

    async def _pause(self, wait_s: float) -> None:
        """Wait, unless the run is cancelled or lost meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            self._check_stopped()
            left_s = until - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, _LOOK_S))

    def _check_stopped(self) -> None:
        if self._log.failure is not None:
            raise self._log.failure
        self._check_cancelled()

    def _account(self, name: str, usage: Usage) -> None:
        tokens = self._services.telemetry.model_tokens
        tokens.labels(name, "input").inc(usage.input_tokens)
        tokens.labels(name, "cached").inc(usage.cached_tokens)
        tokens.labels(name, "written").inc(usage.written_tokens)
        tokens.labels(name, "output").inc(usage.output_tokens)
        tokens.labels(name, "reasoning").inc(usage.reasoning_tokens)
        cost = self._services.prices.cost(name, usage)
        if cost is not None:
            self._services.telemetry.model_cost.labels(self._agent.name, name).inc(cost)

    async def _read(self, model: Model, request: ModelRequest, step: int, heard: Callable[[], None]) -> Reply:
        """The stream, read to its end; `heard` is called at each of its events."""
        reply = Reply(model.provider)
        first, size = self._output.next_index, 0
        slot: Slot | None = None
        private = {"step": step, "provider": model.provider}
        closing = False
        """Whether more text would be another message."""
        try:
            async with aclosing(_stream(model, request)) as events:
                async for event in events:
                    heard()
                    if self._log.full:
                        await self._log.room()
                    self._check_cancelled()
                    if isinstance(event, TextDelta | RefusalDelta):
                        kind = "output_text" if isinstance(event, TextDelta) else "refusal"
                        if slot is not None and (slot.kind != kind or closing):
                            self._output.message_done(slot)
                            slot = None
                        slot, closing = self._output.message_delta(slot, kind, event.text, private), False
                        size += len(event.text.encode())
                        if size > self._limits.output_bytes:
                            break  # the reply stays `length`, as it began
                        continue
                    if isinstance(event, ToolCall):
                        closing = True  # not yet: until the reply is whole, all of it may have to be given up
                    elif slot is not None and isinstance(event, ReasoningDone):
                        self._output.message_done(slot)
                        slot = None
                    self._take(event, reply, private)
        except BaseException:
            self._output.give_up(first)
            raise
        if slot is not None:
            self._output.message_done(slot, "incomplete" if reply.finish == "length" else "completed")
        for call in reply.client_calls:
            self._output.client_call(call, private)
        reply.indexes = list(range(first, self._output.next_index))
        return reply

    def _take(self, event: ModelEvent, reply: Reply, private: dict[str, Any]) -> None:
        match event:
            case ReasoningDone():
                self._output.reasoning(event, private)
            case ToolCall() if event.name in self._client_tools:
                reply.client_calls.append(event)  # not shown before the reply is whole: the client might act on it
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


def _kind(error: ModelError) -> str:
    """An error as the label of a metric."""
    if error.code == "rate_limit_exceeded":
        return "rate_limited"
    return "unavailable" if error.retryable else "refused"


def _worst(failures: list[ModelError], wait_s: float) -> ModelError:
    """What the run failed with: rather something that may pass, and then when."""
    error = next((one for one in failures if one.retryable), failures[0] if failures else None)
    if error is None:
        error = ModelError("the model is not answering at present", retryable=True, refused=True)
    if error.retryable and error.retry_after_s is None and wait_s > 0:
        error.retry_after_s = wait_s
    return error
