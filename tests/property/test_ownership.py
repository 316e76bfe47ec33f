"""Lease, journal and commit against a model in memory: whatever is done, Redis and the model agree.

The model knows one session: who owns it, who waits, what is in its history, what each effect's outcome is. Anybody who
ever owned the session may try any write at any time, as paused and displaced pods do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis as redis_py
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from agentrt.errors import OwnershipLost
from agentrt.store.begin import Begin, Ended, Joined, Waiting
from agentrt.store.journal import Batch, read_effects
from agentrt.store.keys import new_id
from agentrt.store.ownership import Owned
from tests.harness.redis_server import RedisServer
from tests.store.stage import Store, again, connected, ending, message, new_session, planned, recorded

_T = TypeVar("_T")


@dataclass
class Model:
    """What one session is."""

    owner: str | None = None
    run: str | None = None
    fence: int = 0
    line: list[Begin] = field(default_factory=list)
    items: list[bytes] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    outcomes: dict[str, str] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    ops: set[str] = field(default_factory=set)

    def own(self, token: str, run: str, fence: int) -> None:
        assert fence > self.fence, "a fence only grows"
        self.owner, self.run, self.fence = token, run, fence

    def grant(self) -> None:
        """The first in line is next; nobody is forgotten."""
        if self.line:
            first = self.line.pop(0)
            self.owner, self.run = first.token, first.run
        else:
            self.owner = self.run = None


class Sessions(RuleBasedStateMachine):
    """One session, any number of pods, all of them unreliable."""

    owners = Bundle("owners")
    messages = Bundle("messages")

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.redis = self.do(self.stack.enter_async_context(connected(self.server.url)))
        self.store = Store(self.redis, wait_ms=600_000)
        self.outside = redis_py.Redis(port=self.server.port)
        self.session = new_session()
        self.model = Model()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.stack.aclose())
        self.runner.close()
        self.outside.close()

    def is_owner(self, owned: Owned) -> bool:
        return owned.token == self.model.owner

    def guarded(self, owned: Owned, write: Coroutine[Any, Any, _T], op: str = "") -> bool:
        """A write goes through if and only if its writer owns the session; one that went through is answered again."""
        try:
            self.do(write)
        except OwnershipLost:
            assert not self.is_owner(owned), "the owner was refused"
            return False
        if op in self.model.ops:
            return False
        assert self.is_owner(owned), "somebody else wrote"
        if op:
            self.model.ops.add(op)
        return True

    @initialize(target=owners)
    def first(self) -> Any:
        return self._begun(message(self.session))

    @rule(target=owners)
    def another_message(self) -> Any:
        return self._begun(message(self.session))

    @rule(target=owners, want=messages)
    def ask_again(self, want: Begin) -> Any:
        """Who waits asks again: granted by now, or still in line."""
        return self._begun(want)

    def _begun(self, want: Begin) -> Any:
        model = self.model
        outcome = self.do(self.store.begin(want))
        if isinstance(outcome, Owned):
            granted = model.owner == want.token
            assert granted or model.owner is None, "two owners"
            if granted:
                assert outcome.fence >= model.fence
                model.fence = outcome.fence
            else:
                model.own(want.token, want.run, outcome.fence)
                model.line = [one for one in model.line if one.run != want.run]
            assert outcome.first == len(model.items) or outcome.attempt > 1
            return outcome
        if want.run in model.ended:
            assert outcome == Ended(want.run)
        else:
            assert isinstance(outcome, Waiting)
            if want.run not in [one.run for one in model.line]:
                model.line.append(want)
        return multiple()

    @rule(target=messages)
    def wait(self) -> Any:
        """A message that comes while somebody else is at work."""
        if self.model.owner is None:
            return multiple()
        want = message(self.session, by_key=True)
        self._begun(want)
        return want

    @rule(target=owners, owned=owners)
    def displace(self, owned: Owned) -> Any:
        """A claim displaces the owner it names, and nobody else."""
        token = new_id()
        claimed = self.do(self.store.claim(owned, token))
        if claimed is None:
            assert not self.is_owner(owned)
            return multiple()
        assert self.is_owner(owned)
        self.model.own(token, owned.run.id, claimed.fence)
        return claimed

    @rule(owned=owners, index=st.integers(0, 2), starts=st.booleans())
    def plan(self, owned: Owned, index: int, starts: bool) -> None:
        effect = planned(owned, index, step=index)
        write = self.store.journal.plan(owned, index, b"plan", [(effect, starts)], Batch())
        if self.guarded(owned, write, f"{owned.token}.plan.{index}"):
            self.model.planned.add(effect.key)

    @rule(owned=owners, index=st.integers(0, 2))
    def intend(self, owned: Owned, index: int) -> None:
        key = planned(owned, index, step=index).key
        if key in self.model.planned:
            self.guarded(owned, self.store.journal.intend(owned, [key]))

    @rule(owned=owners, index=st.integers(0, 2), text=st.text("ab", min_size=1, max_size=3))
    def record(self, owned: Owned, index: int, text: str) -> None:
        """The first outcome of an effect stands, whoever comes later."""
        effect = planned(owned, index, step=index)
        if effect.key not in self.model.planned:
            return
        if self.guarded(owned, self.store.journal.record(owned, new_id(), [recorded(effect, text)], Batch())):
            self.model.outcomes.setdefault(effect.key, text)

    @rule(owned=owners, lines=st.lists(st.sampled_from([b'{"id":"a"}', b""]), max_size=3))
    def commit(self, owned: Owned, lines: list[bytes]) -> None:
        """Ends the run once; sent again under the same token it changes nothing."""
        model = self.model
        if not self.is_owner(owned) and owned.run.id in model.ended:
            before = model.items[:]
            with suppress(OwnershipLost):
                self.do(self.store.sessions.commit(owned, ending(*lines)))
            assert model.items == before
            return
        if self.guarded(owned, self.store.sessions.commit(owned, ending(*lines))):
            model.items += lines
            model.ended.add(owned.run.id)
            model.grant()

    @rule(want=messages)
    def the_same_from_elsewhere(self, want: Begin) -> None:
        """The same message under its key: never a second run."""
        outcome = self.do(self.store.begin(again(want)))
        model = self.model
        if want.run in model.ended:
            assert outcome == Ended(want.run)
        elif model.run == want.run or want.run in [one.run for one in model.line]:
            assert isinstance(outcome, Joined)
            assert outcome.run == want.run

    @invariant()
    def the_history_is_the_model_s(self) -> None:
        assert self.outside.lrange(self.session.items, 0, -1) == self.model.items
        header = self.outside.hgetall(self.session.hash)
        if header:
            assert header[b"owner"].decode() == (self.model.owner or "")
            assert int(header[b"seq"]) == len(self.model.items)

    @invariant()
    def outcomes_stand(self) -> None:
        found = {}
        for run in self.outside.lrange(self.session.runs, 0, -1):
            journal = self.outside.hgetall(self.session.run(run.decode()).effects)
            stored = {name.decode(): value for name, value in journal.items()}
            found |= {key: outcome.output for key, (_, _, outcome) in read_effects(stored).items() if outcome}
        assert found == self.model.outcomes


def test_any_order(redis_server: RedisServer, redis_url: str) -> None:
    Sessions.server = redis_server
    machine = type("Machine", (Sessions,), {})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
