"""The steps of a run in the journal: planned before anything of them happens, settled, recorded; or found there.

The turn knows their order. What a crash between any two writes means: docs/architecture.md, "Effects".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import orjson

from agentrt.agent import Agent, Effect, Tool
from agentrt.errors import NotAcknowledged, OwnershipLost
from agentrt.records import Item, Request, Usage
from agentrt.runtime.approvals import answered, asks
from agentrt.runtime.calls import Call
from agentrt.runtime.clock import boottime_ms, wall_ms
from agentrt.runtime.effects import Effects
from agentrt.runtime.insist import insist
from agentrt.runtime.log import RunLog
from agentrt.runtime.output import Output
from agentrt.runtime.plans import Plan
from agentrt.runtime.reply import Reply
from agentrt.runtime.services import Services
from agentrt.store.doubts import Place
from agentrt.store.journal import Planned, Recorded, effect_key, fingerprint, read_effects
from agentrt.store.ownership import Approval, Owned

__all__ = ["Steps", "Todo"]


@dataclass(slots=True)
class Todo:
    """What a step asks for beside text."""

    calls: list[Call] = field(default_factory=list)
    client_calls: int = 0
    approvals: list[Approval] = field(default_factory=list)
    held_up: bool = False
    """Whether a call that an earlier attempt settled holds up the whole session."""


class Steps:
    """Writes the steps of one owned run, runs their calls, and takes in what clients say meanwhile."""

    def __init__(
        self, services: Services, agent: Agent, owned: Owned, request: Request, log: RunLog, output: Output
    ) -> None:
        self._services = services
        self._agent = agent
        self._owned = owned
        self._request = request
        self._log = log
        self._output = output
        self._tools: dict[str, Tool] = {tool.name: tool for tool in agent.offered}
        self._doubted = {doubt.tool for doubt in owned.doubts}
        self._doubts_of_session = {(doubt.key, doubt.mode) for doubt in owned.doubts}
        self._said: list[int] = []
        """Where in the output stands what clients said since the last plan."""
        self._effects = self._new_effects()
        self.calls_left: int = request.options.get("max_tool_calls", 2**31)
        self.planned = owned.record is not None
        """Whether the run has a journal."""
        self.happened = False
        """Whether a call has an outcome: the run's input belongs to the history, however it ends."""
        self.acted = False
        """Whether something may have happened that cannot be taken back."""
        self.steered = 0
        """How many of the messages that came to the run it has taken in."""

    def stop(self, error: BaseException) -> None:
        """End what runs."""
        self._effects.stop(error)

    async def plan(self, step: int, reply: Reply) -> Todo:
        """Persist the reply and its calls before any of them happens."""
        owned, effects = self._owned, self._new_effects()
        todo = Todo(client_calls=len(reply.client_calls))
        waiting: list[Planned] = []
        for index, call in enumerate(reply.calls):
            tool = self._tools.get(call.name)
            wants = asks(tool, call) and call.name not in self._doubted and index < self.calls_left
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
            elif index >= self.calls_left:
                effects.skip(prepared)
            elif wants:
                effects.deny(prepared, "Whoever asks here cannot be asked for an approval.")
            todo.calls.append(prepared)
        self.calls_left -= len(reply.calls)
        await self.write_plan(step, todo, waiting, reply.indexes, reply.usage)
        return todo

    async def answered(self, inputs: Sequence[Item], provider: str) -> Todo:
        """The first step of a run whose input answers requests for approval: it needs no model."""
        private = {"step": 0, "provider": provider}
        calls = await answered(
            self._owned,
            [item.data for item in inputs],
            self._tools,
            self._new_effects(),
            self._output,
            self._services.journal,
            private,
        )
        todo = Todo(calls)
        await self.write_plan(0, todo, [], [call.planned.output_index for call in calls], Usage())
        return todo

    async def write_plan(
        self, step: int, todo: Todo, waiting: list[Planned], indexes: list[int], usage: Usage | None
    ) -> None:
        """The write before anything happens: what is to be done, and `intended` for what starts at once."""
        self.planned = True
        started = self._effects.start_now(todo.calls)
        plan = Plan(
            self._output.snapshot([*self._said, *indexes]),
            [call.planned.key for call in todo.calls],
            usage,
            todo.client_calls,
            todo.approvals,
            self.steered,
            {call.planned.key: call.outcome for call in todo.calls if call.outcome is not None},
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

    def replayed(self, plan: Plan, *, wanted: bool = True) -> Todo:
        """The calls of a step that an earlier attempt planned, with what the journal knows of them.

        Not `wanted`: what nobody has begun is not begun any more.
        """
        effects = self._new_effects()
        assert self._owned.record is not None
        journal = read_effects(self._owned.record["effects"])
        calls, held_up = [], False
        for key in plan.calls:
            planned, intent, outcome = journal[key]
            call = effects.prepare(planned, self._tools, intent)
            if outcome is not None:
                call.outcome = outcome
                self._services.telemetry.effects.labels(self._label(planned), "replayed").inc()
                self._output.server_call_done(planned.output_index, outcome.output, outcome.error)
                self.happened = True
                self.acted |= planned.effect != Effect.READ_ONLY
                held_up |= call.doubt == "block" or (key, "block") in self._doubts_of_session
            elif intent is None and key in plan.decided:
                call.outcome = plan.decided[key]
            elif intent is None and not wanted:
                effects.give_up(call)
            elif intent is not None and call.outcome is None:
                self._log.add("agentrt:recovering", {"tool": planned.tool, "lock_until_ms": intent.lock_until_ms})
            calls.append(call)
        self.calls_left -= len(calls) + len(plan.approvals)
        open_calls = [call for call in calls if journal[call.planned.key][2] is None]
        return Todo(open_calls, plan.client_calls, list(plan.approvals), held_up)

    async def settle(self, step: int, calls: list[Call]) -> bool:
        """Run the calls and record their outcomes as they come. True: one of them holds up the whole session."""
        blocked = False
        async with aclosing(self._effects.settle(calls)) as batches:
            number = 0
            async for done in batches:
                for call in done:
                    assert call.outcome is not None
                    planned, outcome = call.planned, call.outcome
                    self._output.server_call_done(planned.output_index, outcome.output, outcome.error)
                    self._services.telemetry.effects.labels(self._label(planned), outcome.state).inc()
                    happened = call.intended or call.intent is not None
                    self.acted |= happened and planned.effect != Effect.READ_ONLY
                await self._record(f"{step}.{number}", done)
                self.happened = True
                self._doubted |= {call.planned.tool for call in done if call.doubt}
                blocked |= any(call.doubt == "block" for call in done)
                number += 1
        return blocked

    async def give_up(self, step: int, plan: Plan) -> None:
        """Nobody goes on with a step: what became of calls without an outcome is told as unknown."""
        calls = self.replayed(plan).calls
        for call in calls:
            self._effects.give_up(call)
            assert call.outcome is not None
            self._output.server_call_done(call.planned.output_index, None, call.outcome.error)
        if calls:
            await self._record(f"{step}.given_up", calls)
            self.happened = True

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

    def put_back(self) -> None:
        """What came since the last plan is taken in again by whoever goes on with the run."""
        self._output.remove(self._said)
        self._said.clear()

    async def take_in(self) -> None:
        """What came to the run since the last step becomes part of its input, if a notice says that there is any.

        A notice that was lost costs nothing but time: commit looks for itself.
        """
        notices, run = self._services.notices, self._owned.run.id
        if run not in notices.steered:
            return
        notices.steered.discard(run)
        steers = await insist(lambda: self._services.sessions.steers(self._owned))
        for said in steers[self.steered :]:
            self._said += [self._output.said(data) for data in orjson.loads(said)]
        self.steered = len(steers)

    def _label(self, planned: Planned) -> str:
        """The tool as a metric's label: a name that a model made up must not become one."""
        return planned.tool if planned.tool in self._tools else "unknown"

    def _new_effects(self) -> Effects:
        self._effects = Effects(self._services, self._agent, self._owned)
        return self._effects
