"""One turn: the one place that knows the order of its writes.

    begin (admission) → repeat: ask the model → plan → run the calls → record → … → commit

Every step first looks for itself in the journal: a run that another pod began goes the same way and finds what was
done. What is written, and when, is DESIGN's "One turn"; what a crash between any two writes means is its crash table.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentrt.agent import Agent, Effect, Tool
from agentrt.errors import ModelError, NotAcknowledged, OwnershipLost, StoreUnavailable
from agentrt.models.base import ModelRequest
from agentrt.records import Item, Request, Usage
from agentrt.runtime import context, response
from agentrt.runtime.approvals import answered, asks
from agentrt.runtime.calls import Call
from agentrt.runtime.clock import boottime_ms, wall_ms
from agentrt.runtime.effects import Effects
from agentrt.runtime.insist import insist
from agentrt.runtime.log import Listener, RunLog
from agentrt.runtime.output import Output
from agentrt.runtime.plans import Plan
from agentrt.runtime.reply import Asking, Ending, Reply
from agentrt.runtime.services import Services
from agentrt.store.doubts import Place
from agentrt.store.journal import Planned, Recorded, effect_key, fingerprint, read_effects
from agentrt.store.ownership import Approval, Owned
from agentrt.store.sessions import Commit

__all__ = ["Turn", "TurnEnd"]

log = logging.getLogger("agentrt.turn")


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a run ended. `retryable`: sending the same message again resumes it."""

    status: str
    result: bytes
    retryable: bool = False
    retry_after_s: float | None = None
    tokens: int = 0
    """What this pod knows that it cost."""


@dataclass(slots=True)
class Todo:
    """What a step asks for beside text."""

    calls: list[Call] = field(default_factory=list)
    client_calls: int = 0
    approvals: list[Approval] = field(default_factory=list)


class Turn:
    """A run that this pod owns, from begin (or claim) to commit."""

    def __init__(
        self,
        services: Services,
        agent: Agent,
        owned: Owned,
        request: Request,
        inputs: list[dict[str, Any]],
        listener: Listener | None = None,
    ) -> None:
        self._services = services
        self._agent = agent
        self._owned = owned
        self._request = request
        self._provider = services.models(agent.models[0]).provider
        logged = int(owned.record["log"]) if owned.record else -1
        self._log = RunLog(services.journal, owned, logged=logged, listener=listener)
        run, first = owned.run.id, owned.first
        self._input = [Item.given(data, run, first + number) for number, data in enumerate(inputs)]
        sealed = "reasoning.encrypted_content" in request.options.get("include", ())
        self._output = Output(self._log, run, first + len(inputs), agent.name, sealed=sealed)
        self._tools: dict[str, Tool] = {tool.name: tool for tool in agent.offered}
        self._specs = (context.tool_specs(agent), context.client_tools(request))
        self._client_tools = {spec.name for spec in self._specs[1]}
        self._calls_left: int = request.options.get("max_tool_calls", 2**31)
        self._id = response.response_id(owned.session.id, run)
        self._asking = Asking(services, agent, self._log, self._output, self._client_tools, self._check_cancelled)
        self._effects = self._new_effects()
        self._usage: Usage | None = Usage()
        self._effects_happened = False
        self._spent = 0
        self._planned = owned.record is not None
        self._doubted = {doubt.tool for doubt in owned.doubts}
        self._approvals: list[Approval] = []
        self._step = 0
        self._last: Reply | None = None
        """The reply that ended the steps: no plan keeps it."""
        self._steered = 0
        self._said: list[int] = []
        """Where in the output stands what clients said since the last plan."""
        self._acted = False
        """Whether something may have happened that cannot be taken back."""

    async def run(self) -> TurnEnd:
        """Work until the run is committed. Raises `OwnershipLost` when another pod owns it, `StoreUnavailable`, and
        `NotAcknowledged` when it is to go on later, since replicas do not know of what it is about to do.
        """
        try:
            plans = await self._take_up()
            while True:
                status, details = await self._steps(plans)
                end = await self._commit(status, details, may_go_on=self._step < self._agent.limits.steps)
                if end is not None:
                    return end
                await self._keep_last()
        except ModelError as error:
            return await self._fail(error)
        except (OwnershipLost, StoreUnavailable):
            raise
        except Exception:  # the boundary of a run: a defect of ours ends this run, not the pod, and is told as such
            log.exception("run %s failed", self._owned.run.id)
            return await self._fail(ModelError("the runtime failed on this run", retryable=False))
        finally:
            self._log.close()

    async def give_up(self, why: str) -> TurnEnd:
        """End the run as failed without working on it; what became of calls without an outcome is told as unknown."""
        try:
            for step, plan in enumerate(await self._take_up()):
                calls = self._replayed(plan).calls
                for call in calls:
                    self._effects.give_up(call)
                    assert call.outcome is not None
                    self._output.server_call_done(call.planned.output_index, None, call.outcome.error)
                if calls:
                    await self._record(f"{step}.given_up", calls)
                    self._effects_happened = True
        except (OwnershipLost, StoreUnavailable):
            raise
        except Exception:  # the record itself may be what nobody survives: the run ends all the same
            log.exception("run %s cannot be read", self._owned.run.id)
        return await self._fail(ModelError(why, retryable=False))

    @property
    def first_token_at(self) -> float | None:
        """When the first piece of output came, by `time.perf_counter`; None before."""
        return self._log.first_delta_at

    def lost(self) -> None:
        """The session has another owner: stop at the next chance."""
        error = OwnershipLost(f"run {self._owned.run.id}: the lease was taken")
        self._log.failure = error
        self._effects.stop(error)

    # --- the order ------------------------------------------------------------------------------------------------

    async def _steps(self, plans: list[Plan]) -> tuple[str, dict[str, Any]]:
        try:
            while self._step < self._agent.limits.steps:
                step = self._step
                self._step += 1
                if step < len(plans):
                    todo = self._replayed(plans[step])
                elif step == 0 and self._owned.approvals:
                    todo = await self._answered()
                else:
                    await self._take_in()
                    reply = await self._asking.ask(self._context(), step)
                    self._count(reply.usage)
                    if not reply.calls:
                        self._last = reply
                        return self._ended_by(reply)
                    todo = await self._plan(step, reply)
                await self._settle(step, todo.calls)
                if (todo.approvals or todo.client_calls) and self._step >= len(plans):
                    self._approvals = todo.approvals
                    return "completed", {}
            return _incomplete("max_steps")
        except Ending as ending:
            return ending.status, ending.details

    async def _take_up(self) -> list[Plan]:
        """Begin the log, or go on from what earlier attempts of this run left."""
        record = self._owned.record
        if record is None or record["log"] == b"-1":
            logged: dict[int, bool] = {}
            self._log.add("response.created", {"response": self._opening})
            self._log.add("response.in_progress", {"response": self._opening})
            if record is None:
                return []
        else:
            _, frames = await self._services.events.read(self._owned.session, self._owned.run.id, -1)
            logged = self._output.abandon(frames)
        plans: list[Plan] = []
        while (raw := record.get(f"plan:{len(plans)}")) is not None:
            plans.append(Plan.decode(raw))
        for plan in plans:
            self._output.restore(plan.items, logged)
            self._count(plan.usage)
            self._steered = plan.steered
        if logged:
            self._output.close_abandoned()
        if not plans and int(record.get("attempt", 1)) > 1:
            self._usage = None  # an earlier attempt may have asked the model, and nobody knows what it cost
        return plans

    async def _plan(self, step: int, reply: Reply) -> Todo:
        """Persist the reply and its calls before any of them happens."""
        owned, effects = self._owned, self._new_effects()
        todo = Todo(client_calls=len(reply.client_calls))
        waiting: list[Planned] = []
        for index, call in enumerate(reply.calls):
            tool = self._tools.get(call.name)
            wants = asks(tool, call) and call.name not in self._doubted and index < self._calls_left
            asking = wants and not self._request.chat
            begin = self._output.approval_request if asking else self._output.server_call
            slot = begin(call, {"step": step, "provider": reply.provider})
            reply.indexes.append(slot.index)
            planned = Planned(
                key=effect_key(owned.session, owned.run.id, step, index),
                step=step,
                index=index,
                tool=call.name,
                effect=tool.effect if tool else "read_only",
                arguments=call.arguments,
                call_id=call.call_id,
                item=slot.data["id"],
                output_index=slot.index,
                attempt=owned.attempt,
                pod=self._services.config.pod,
                fence=owned.fence,
                at=wall_ms(),
                fingerprint=fingerprint(call.arguments),
            )
            if asking:
                waiting.append(planned)
                todo.approvals.append(Approval(planned.item, owned.run.id, planned.key))
                continue
            prepared = effects.prepare(planned, self._tools)
            if planned.tool in self._doubted:
                effects.refuse(prepared)
            elif index >= self._calls_left:
                effects.skip(prepared)
            elif wants:
                effects.deny(prepared, "Whoever asks here cannot be asked for an approval.")
            todo.calls.append(prepared)
        self._calls_left -= len(reply.calls)
        await self._write_plan(step, todo, waiting, reply.indexes, reply.usage)
        return todo

    async def _answered(self) -> Todo:
        """The first step of a run whose input answers requests for approval: it needs no model."""
        private = {"step": 0, "provider": self._provider}
        calls = await answered(
            self._owned,
            [item.data for item in self._input],
            self._tools,
            self._new_effects(),
            self._output,
            self._services.journal,
            private,
        )
        todo = Todo(calls)
        await self._write_plan(0, todo, [], [call.planned.output_index for call in calls], Usage())
        return todo

    async def _write_plan(
        self, step: int, todo: Todo, waiting: list[Planned], indexes: list[int], usage: Usage | None
    ) -> None:
        """The write before anything happens: what is to be done, and `intended` for what starts at once."""
        self._planned = True
        started = self._effects.start_now(todo.calls)
        plan = Plan(
            self._output.snapshot([*self._said, *indexes]),
            [call.planned.key for call in todo.calls],
            usage,
            todo.client_calls,
            todo.approvals,
            self._steered,
        ).encode()
        batch = self._log.batch()
        sent_at_ms = boottime_ms()
        marked = [(call.planned, call in started) for call in todo.calls] + [(planned, False) for planned in waiting]
        try:
            cancelled, _ = await insist(lambda: self._services.journal.plan(self._owned, step, plan, marked, batch))
        except NotAcknowledged:
            self._log.logged(batch.last)
            await self._effects.withdraw(started)
            raise
        self._said.clear()
        self._log.logged(batch.last)
        self._log.cancel_asked = self._log.cancel_asked or cancelled
        self._effects.intended(started, sent_at_ms)

    def _replayed(self, plan: Plan) -> Todo:
        """The calls of a step that an earlier attempt planned, with what the journal knows of them."""
        effects = self._new_effects()
        assert self._owned.record is not None
        journal = read_effects(self._owned.record["effects"])
        calls = []
        for key in plan.calls:
            planned, intent, outcome = journal[key]
            call = effects.prepare(planned, self._tools, intent)
            if outcome is not None:
                call.outcome = outcome
                self._services.telemetry.effects.labels(self._label(planned), "replayed").inc()
                self._output.server_call_done(planned.output_index, outcome.output, outcome.error)
                self._effects_happened = True
                self._acted |= planned.effect != Effect.READ_ONLY
            elif intent is not None and call.outcome is None:
                self._log.add("agentrt:recovering", {"tool": planned.tool, "lock_until_ms": intent.lock_until_ms})
            calls.append(call)
        self._calls_left -= len(calls) + len(plan.approvals)
        open_calls = [call for call in calls if journal[call.planned.key][2] is None]
        return Todo(open_calls, plan.client_calls, list(plan.approvals))

    async def _settle(self, step: int, calls: list[Call]) -> None:
        """Run the calls and record their outcomes as they come."""
        blocked = False
        async with aclosing(self._effects.settle(calls)) as batches:
            number = 0
            async for done in batches:
                for call in done:
                    assert call.outcome is not None
                    planned, outcome = call.planned, call.outcome
                    self._output.server_call_done(planned.output_index, outcome.output, outcome.error)
                    self._services.telemetry.effects.labels(self._label(planned), outcome.state).inc()
                    self._acted |= call.intended and planned.effect != Effect.READ_ONLY
                await self._record(f"{step}.{number}", done)
                self._effects_happened = True
                self._doubted |= {call.planned.tool for call in done if call.doubt}
                blocked |= any(call.doubt == "block" for call in done)
                number += 1
        if blocked:
            status, details = _incomplete("effect_in_doubt")
            raise Ending(status, **details)
        self._check_cancelled()

    async def _record(self, op: str, done: list[Call]) -> None:
        """Keep outcomes. What came too late for that, because the run is another pod's, is kept as evidence."""
        owned, journal = self._owned, self._services.journal
        outcomes = [
            Recorded(call.planned.key, call.outcome, call.planned.tool, call.doubt)
            for call in done
            if call.outcome is not None
        ]
        doubted = [Place(owned.session.tenant, owned.session.id, owned.run.id, one.key) for one in outcomes if one.mode]
        if doubted:  # the pointer first: it can be checked, a record without one cannot be found
            await insist(lambda: self._services.doubts.enter(doubted))
        batch = self._log.batch()
        try:
            flag = await insist(lambda: journal.record(owned, op, outcomes, batch))
        except OwnershipLost:
            for one in outcomes:
                if one.outcome.state == "recorded":
                    await journal.evidence(owned, one.key, one.outcome)
            raise
        self._log.cancel_asked = self._log.cancel_asked or flag
        self._log.logged(batch.last)

    # --- more messages while it runs ------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        """What came to the run since the last step becomes part of its input, if a notice says that there is any.

        A notice that was lost costs nothing but time: commit looks for itself.
        """
        notices, run = self._services.notices, self._owned.run.id
        if run not in notices.steered:
            return
        notices.steered.discard(run)
        steers = await insist(lambda: self._services.sessions.steers(self._owned))
        for said in steers[self._steered :]:
            self._said += [self._output.said(data) for data in orjson.loads(said)]
        self._steered = len(steers)

    async def _keep_last(self) -> None:
        """What was the final reply is a step like any other, now that there is more to answer."""
        self._approvals = []
        if self._last is not None:
            reply, self._last = self._last, None
            await self._write_plan(
                self._step - 1, Todo(client_calls=len(reply.client_calls)), [], reply.indexes, reply.usage
            )

    # --- the end --------------------------------------------------------------------------------------------------

    def _ended_by(self, reply: Reply) -> tuple[str, dict[str, Any]]:
        if reply.finish == "length":
            return _incomplete("max_output_tokens")
        if reply.finish == "content_filter":
            return "incomplete", {"incomplete_details": {"reason": "content_filter"}}
        return "completed", {}

    async def _fail(self, error: ModelError) -> TurnEnd:
        details = {"error": response.error_body(error.code, str(error))}
        end = await self._commit("failed", details, retry=error.retryable)
        assert end is not None
        return TurnEnd(end.status, end.result, error.retryable, error.retry_after_s, self._spent)

    async def _commit(
        self, status: str, details: dict[str, Any], *, retry: bool = False, may_go_on: bool = False
    ) -> TurnEnd | None:
        """End the run. None: it goes on, for more messages came while the last reply was on its way."""
        if status == "cancelled" and self._cancelled == "rollback" and not self._acted:
            self._output.drop()
            details = {**details, "metadata": {"agentrt_rolled_back": "true"}}
        while (end := await self._try_commit(status, details, retry)) is None:
            self._services.notices.steered.add(self._owned.run.id)
            if may_go_on and status == "completed":
                return None
            await self._take_in()
        return end

    async def _try_commit(self, status: str, details: dict[str, Any], retry: bool) -> TurnEnd | None:
        """A failed run leaves its input in the history only if something was done for it."""
        self._log.close()  # or a flush of its own might log the end before it is committed
        if status == "completed":
            details = {**details, "completed_at": wall_ms() // 1000}
        final = response.body(self._request, self._id, status, self._output.public(), self._usage, **details)
        result = orjson.dumps(final)
        self._log.add(response.terminal_event(status), {"response": orjson.Fragment(result)})
        lines: list[bytes] = []
        if status != "failed" or self._effects_happened:
            lines = [*(item.encode() for item in self._input), *self._output.lines()]
        skip = int((self._owned.record or {}).get("n_items", 0))
        batch = self._log.batch()
        commit = Commit(
            status,
            result,
            lines,
            skip,
            retry,
            self._planned,
            self._steered,
            self._approvals,
            batch.last,
            batch.frames,
            self._request.alone,
        )
        if await insist(lambda: self._services.sessions.commit(self._owned, commit)) is None:
            self._log.take_back()
            return None
        self._log.logged(batch.last)
        return TurnEnd(status, result, tokens=self._spent)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _opening(self) -> dict[str, Any]:
        return response.body(self._request, self._id, "in_progress")

    def _context(self) -> ModelRequest:
        options, limits = self._request.options, self._agent.limits
        said, done = context.fitting(
            self._input, self._output.items(), limits.context_tokens, cut=options.get("truncation") == "auto"
        )
        tokens = context.size([*said, *done], limits.context_tokens)
        if tokens > limits.context_tokens:
            if self._effects_happened:
                status, details = _incomplete("max_context_tokens")
                raise Ending(status, **details)
            message = f"the input is about {tokens} tokens long; {limits.context_tokens} are allowed"
            raise ModelError(message, code="invalid_prompt", retryable=False)
        left = options.get("max_output_tokens")
        if left is not None and self._usage is not None:
            left -= self._usage.output_tokens
            if left <= 0:
                status, details = _incomplete("max_output_tokens")
                raise Ending(status, **details)
        own, clients = self._specs
        return context.build(
            self._agent,
            self._request,
            self._owned.window,
            [*said, *done],
            specs=(*own, *clients) if self._calls_left > 0 else clients,
            cache_key=self._owned.session.id,
            output_tokens=left,
        )

    def _label(self, planned: Planned) -> str:
        """The tool as a metric's label: a name that a model made up must not become one."""
        return planned.tool if planned.tool in self._tools else "unknown"

    def _new_effects(self) -> Effects:
        self._effects = Effects(self._services, self._agent, self._owned)
        return self._effects

    def _count(self, usage: Usage | None) -> None:
        if usage is None:  # a lost try cost something: about what it was asked with
            self._spent += context.size([*self._input, *self._output.items()], 0)
        else:
            self._spent += usage.input_tokens + usage.output_tokens
        if usage is None or self._usage is None:
            self._usage = None
            return
        self._usage = self._usage + usage
        tokens = self._services.telemetry.tokens
        tokens.labels(self._agent.name, "input").inc(usage.input_tokens)
        tokens.labels(self._agent.name, "cached").inc(usage.cached_tokens)
        tokens.labels(self._agent.name, "output").inc(usage.output_tokens)

    @property
    def _cancelled(self) -> str:
        """How somebody asked for the end of this run; empty when nobody did."""
        return self._log.cancel_asked or self._services.notices.cancelled.get(self._owned.run.id, "")

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Ending("cancelled")


def _incomplete(why: str) -> tuple[str, dict[str, Any]]:
    """`incomplete_details.reason` is a closed set at the clients; what it was goes into the metadata."""
    details: dict[str, Any] = {"incomplete_details": {"reason": "max_output_tokens"}}
    if why != "max_output_tokens":
        details["metadata"] = {"agentrt_incomplete": why}
    return "incomplete", details
