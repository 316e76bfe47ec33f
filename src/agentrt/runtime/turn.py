"""One turn: the one place that knows the order of its writes.

    begin (admission) → repeat: ask the model → plan → run the calls → record → … → commit

Every step first looks for itself in the journal: a run that another pod began goes the same way and finds what was
done. What is written, and when, is told in docs/architecture.md, "One turn"; what a crash between any two writes means,
under "Effects".
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.agent import Agent
from agentrt.errors import ModelError, OwnershipLost, StoreUnavailable
from agentrt.memory.block import Block
from agentrt.models.base import ModelRequest
from agentrt.models.choice import of_these, relaxed
from agentrt.records import Item, Request, Usage
from agentrt.runtime import context, response
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import jobs_after, said_at_ms
from agentrt.runtime.insist import insist
from agentrt.runtime.log import Listener, RunLog
from agentrt.runtime.output import Output
from agentrt.runtime.plans import Plan
from agentrt.runtime.reply import Asking, Ending, Reply
from agentrt.runtime.services import Services
from agentrt.runtime.steps import Steps, Todo
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
        self._specs = (context.tool_specs(agent), context.client_tools(request))
        self._client_tools = {spec.name for spec in self._specs[1]}
        self._id = response.response_id(owned.session.id, run)
        self._asking = Asking(services, agent, self._log, self._output, self._client_tools, self._check_cancelled)
        self._journal = Steps(services, agent, owned, request, self._log, self._output)
        self._usage: Usage | None = Usage()
        self._spent = 0
        self._approvals: list[Approval] = []
        self._step = 0
        self._waits = False
        """Whether it ends with calls that the client is to make, or to approve."""
        self._last: Reply | None = None
        """The reply that ended the steps: no plan keeps it."""
        self._block: Block | None = None
        self._said_at_ms = said_at_ms(request)
        self._budget = services.scales.budget(agent)
        self.jobs: list[str] = []
        """What is to be done in the background once the run is committed."""

    async def run(self) -> TurnEnd:
        """Work until the run is committed. Raises `OwnershipLost` when another pod owns it, `StoreUnavailable`, and
        `NotAcknowledged` when it is to go on later, since replicas do not know of what it is about to do.
        """
        try:
            plans = await self._take_up()
            while True:
                status, details = await self._steps(plans)
                end = await self._commit(status, details, may_go_on=self._may_go_on())
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

    def _may_go_on(self) -> bool:
        """Not beyond its steps, and not while it waits for the client: the next input answers all of it."""
        return self._step < self._agent.limits.steps and not self._waits

    async def give_up(self, why: str) -> TurnEnd:
        """End the run as failed without working on it; what became of calls without an outcome is told as unknown."""
        try:
            for step, plan in enumerate(await self._take_up()):
                await self._journal.give_up(step, plan)
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
        self._journal.stop(error)

    # --- the order ------------------------------------------------------------------------------------------------

    async def _steps(self, plans: list[Plan]) -> tuple[str, dict[str, Any]]:
        try:
            while self._step < max(self._agent.limits.steps, len(plans)):
                step = self._step
                self._step += 1
                if step < len(plans):
                    todo = self._journal.replayed(plans[step], wanted=not self._cancelled)
                elif step == 0 and self._owned.approvals:
                    todo = await self._journal.answered(self._input, self._provider)
                else:
                    await self._journal.take_in()
                    if self._block is None and not self._request.alone:
                        self._block = await self._recalled()
                    reply = await self._asking.ask(self._context(), step)
                    self._count(reply.usage)
                    if not reply.calls:
                        self._last = reply
                        self._waits = bool(reply.client_calls)
                        return self._ended_by(reply)
                    todo = await self._journal.plan(step, reply)
                held_up = await self._journal.settle(step, todo.calls) or todo.held_up
                if self._step < len(plans):
                    continue  # what was done in later steps must be told, whatever somebody asks for meanwhile
                if held_up:
                    return _incomplete("effect_in_doubt")
                self._check_cancelled()
                if todo.approvals or todo.client_calls:
                    self._approvals, self._waits = todo.approvals, True
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
            self._journal.steered = plan.steered
        if logged:
            self._output.close_abandoned()
        if not plans and int(record.get("attempt", 1)) > 1:
            self._usage = None  # an earlier attempt may have asked the model, and nobody knows what it cost
        return plans

    async def _keep_last(self) -> None:
        """What was the final reply is a step like any other, now that there is more to answer."""
        if self._last is not None:
            reply, self._last = self._last, None
            await self._journal.write_plan(
                self._step - 1, Todo(client_calls=len(reply.client_calls)), [], reply.indexes, reply.usage
            )

    async def _recalled(self) -> Block:
        """What this run is given of the past."""
        begun = time.perf_counter()
        block = await self._services.recollections.for_turn(
            self._agent, self._owned, self._input, self._said_at_ms, self._budget
        )
        if self._agent.memory is not None:
            recall = self._services.telemetry.memory_recall_seconds
            recall.labels(self._agent.name).observe(time.perf_counter() - begun)
        return block

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
        if status == "cancelled" and self._cancelled == "rollback" and self._may_roll_back():
            self._output.drop()
            details = {**details, "metadata": {"agentrt_rolled_back": "true"}}
        while (end := await self._try_commit(status, details, retry)) is None:
            self._services.notices.steered.add(self._owned.run.id)
            if may_go_on and status == "completed":
                return None
            await self._journal.take_in()
        return end

    def _may_roll_back(self) -> bool:
        """Nothing happened in the world, and nothing of an earlier attempt is in the history."""
        return not self._journal.acted and not int((self._owned.record or {}).get("n_items", 0))

    async def _try_commit(self, status: str, details: dict[str, Any], retry: bool) -> TurnEnd | None:
        """A failed run leaves its input in the history only if something was done for it."""
        self._log.close()  # or a flush of its own might log the end before it is committed
        if status == "completed":
            details = {**details, "completed_at": wall_ms() // 1000}
        if self._block is not None and self._block.text:
            note = {"agentrt_context": self._block.note(len(self._owned.window))}
            details = {**details, "metadata": {**note, **details.get("metadata", {})}}
        final = response.body(self._request, self._id, status, self._output.public(), self._usage, **details)
        result = orjson.dumps(final)
        self._log.add(response.terminal_event(status), {"response": orjson.Fragment(result)})
        if retry:
            self._journal.put_back()
        lines: list[bytes] = []
        if status != "failed" or self._journal.happened:
            lines = [*(item.encode() for item in self._input), *self._output.lines()]
        skip = int((self._owned.record or {}).get("n_items", 0))
        batch = self._log.batch()
        commit = Commit(
            status,
            result,
            lines,
            skip,
            retry,
            self._journal.planned,
            self._journal.steered,
            len(self._input),
            self._approvals,
            batch.last,
            batch.frames,
            self._request.alone,
        )
        if await insist(lambda: self._services.sessions.commit(self._owned, commit)) is None:
            self._log.take_back()
            return None
        self._log.logged(batch.last)
        if not self._request.alone:
            self.jobs = jobs_after(self._agent, self._owned, lines, self._budget)
        return TurnEnd(status, result, tokens=self._spent)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _opening(self) -> dict[str, Any]:
        return response.body(self._request, self._id, "in_progress")

    def _context(self) -> ModelRequest:
        options, budget = self._request.options, self._budget
        cut = options.get("truncation") == "auto"
        said, done = context.fitting(self._input, self._output.items(), budget, cut=cut)
        tokens = context.size([*said, *done], budget)
        if tokens > budget:
            if self._journal.happened:
                status, details = _incomplete("max_context_tokens")
                raise Ending(status, **details)
            message = f"the input is about {tokens} tokens long; {budget} are allowed"
            raise ModelError(message, code="invalid_prompt", retryable=False)
        left = options.get("max_output_tokens")
        if left is not None and self._usage is not None:
            left -= self._usage.output_tokens
            if left <= 0:
                status, details = _incomplete("max_output_tokens")
                raise Ending(status, **details)
        return context.build(
            self._agent,
            self._request,
            self._owned.window,
            [*said, *done],
            # Always all of them: a provider refuses a history with calls and no tools, and the prompt is in its cache.
            specs=[*self._specs[0], *self._specs[1]],
            tool_choice=self._choice(),
            cache_key=self._owned.session.id,
            output_tokens=left,
            context_tokens=budget,
            remembered=self._block,
        )

    def _choice(self) -> str | dict[str, Any]:
        """What the model may call in this step, or must: a call is forced once, and none of ours beyond the limit."""
        choice: str | dict[str, Any] = self._request.options.get("tool_choice", "auto")
        if self._step > 1:
            choice = relaxed(choice)
        if self._journal.calls_left > 0 or not self._specs[0]:
            return choice
        return of_these(choice, [spec.name for spec in self._specs[1]])

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
