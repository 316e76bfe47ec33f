"""What must hold in Redis and in the world once everything has come to rest, looked at from outside."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import redis
from tests.conftest import leaked_keys
from tests.harness.runs import TENANT, status

from agentrt.models.scripted import texts
from agentrt.records import TERMINAL, Item
from agentrt.store.journal import read_effects
from agentrt.store.keys import QueueKeys, RunKeys, SessionKeys
from loadtest.chaos.agents import calls
from loadtest.chaos.stream import TERMINAL_EVENTS, Watched

__all__ = ["Inspection", "at_rest", "held"]

_RUN = re.compile(rb"agentrt:\{%b/([0-9A-Za-z]{22})\}:run:([0-9A-Za-z]{22})" % TENANT.encode())
_SESSION = re.compile(rb"agentrt:\{%b/([0-9A-Za-z]{22})\}" % TENANT.encode())


def at_rest(client: redis.Redis) -> bool:
    """Whether nothing is at work and nothing waits."""
    queue = QueueKeys()
    try:
        return client.zcard(queue.leases) == client.zcard(queue.ready) == 0 and not held(client)
    except redis.RedisError:
        return False


def held(client: redis.Redis) -> list[str]:
    """The responses that sessions are owned for."""
    found = []
    for key in client.scan_iter("agentrt:{*/*}", 1000, "hash"):
        if (session := _SESSION.fullmatch(key)) is not None:
            owner, run = client.hmget(key, "owner", "run")
            if owner:
                found.append(f"resp_{session[1].decode()}{(run or b'').decode()}")
    return found


class Inspection:
    """Holds every session, run, journal and log against each other and the world. `wrong` is what does not fit.

    `unsettled`: the times (s since the epoch, from and to) of fail-overs, which may have forgotten what nobody waits
    for of what went on then: of effects that may be repeated the plan, outcomes that a living owner remembered, events
    that were not the last. `hasty`: anything else too, so effects may have happened that no journal knows, and twice.
    That is counted.
    """

    def __init__(
        self, client: redis.Redis, sink: Path, unsettled: Sequence[tuple[float, float]] = (), *, hasty: bool = False
    ) -> None:
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self._client = client
        self._unsettled, self._hasty = unsettled, hasty
        effects = _world(sink)
        self._tools = {key: (tool, at) for key, tool, at in effects}
        self._happened = Counter(key for key, _, _ in effects)
        self._planned: set[str] = set()
        self._in_doubt: set[str] = set()

    def all(self, accepted: Iterable[str]) -> None:
        """Everything there is; `accepted` are the responses that somebody was promised."""
        self._queue()
        self.wrong += [f"{key.decode()} has no TTL and no owner" for key in leaked_keys(self._client)]
        for key in self._client.scan_iter("agentrt:{*/*}*", 1000, "hash"):
            if found := _RUN.fullmatch(key):
                self._run(SessionKeys(TENANT, found[1].decode()).run(found[2].decode()), found[1].decode())
            elif _SESSION.fullmatch(key):
                self._session(key)
        for response in accepted:
            if (ended := status(self._client, response)) != "completed":
                self.wrong.append(f"{response} was accepted, and is {ended}")
        self._doubts()
        for key in set(self._happened) - self._planned:
            self._forgotten(key)
        self.counts["effects that happened"] = self._happened.total()

    def _queue(self) -> None:
        queue = QueueKeys()
        for name, left in (
            ("ready", self._client.zcard(queue.ready)),
            ("leases", self._client.zcard(queue.leases)),
            ("dead letters", self._client.hlen(queue.dead)),
        ):
            if left:
                self.wrong.append(f"{left} in {name}")

    def _session(self, key: bytes) -> None:
        """Free, nobody in line, and as many items as were ever written."""
        owner, run, waiters, seq = self._client.hmget(key, "owner", "run", "waiters", "seq")
        length = self._client.llen(key + b":items")
        self.counts["sessions"] += 1
        if owner or run or waiters not in {None, b"", b"[]"}:
            self.wrong.append(f"{key.decode()} is owned by {owner!r}, run {run!r}, in line {waiters!r}")
        if int(seq or 0) != length:
            self.wrong.append(f"{key.decode()} has {length} items, and wrote {seq!r}")

    def _run(self, run: RunKeys, session: str) -> None:
        """Ended; what its journal says of each effect is what happened; its log is whole."""
        found = {name.decode(): value.decode() for name, value in self._client.hgetall(run.hash).items()}
        self.counts["runs"] += 1
        self.counts["runs that lost their pod"] += int(found.get("attempt", 1)) - int(found.get("spared", 0)) > 1
        if found["status"] == "waiting":
            self.counts["left in line by their clients"] += 1
        elif found["status"] not in TERMINAL:
            told = {name: value for name, value in found.items() if len(value) < 100}
            self.wrong.append(f"run {run.id} is {found['status']}: {told}")
        losing = self._within(float(found["created"]) / 1000, float(found.get("ended", "inf")) / 1000)
        stored = {name.decode(): value for name, value in self._client.hgetall(run.effects).items()}
        journal = read_effects(stored)
        called = Counter(planned.tool for planned, _, _ in journal.values())
        self._asked(run, session, found, called, losing=losing)
        for key, (planned, _, outcome) in journal.items():
            state = outcome.state if outcome is not None else "open"
            self._planned.add(key)
            self.counts[f"calls, {planned.effect}, {state}"] += 1
            if planned.effect == "read_only":
                continue
            if state == "in_doubt":
                self._in_doubt.add(f"{TENANT}/{session}/{run.id}/{key}")
                if planned.tool != "wire":  # which alone can neither be done again nor asked for
                    self.wrong.append(f"{planned.tool} of {run.id} is {planned.effect}, and in doubt")
            if self._happened[key] in {"recorded": {1}, "failed": {0}, "in_doubt": {0, 1}}.get(state, set()):
                continue
            if losing and state == "open" and self._happened[key] <= 1:
                # its owner lived on, and ended the run with what it remembered: nobody asks the journal any more
                self.counts["outcomes that went with a master"] += 1
            elif self._hasty and self._happened[key] > 1:
                self.counts["at_most_once effects that happened again, forgotten with a master"] += 1
            else:
                self.wrong.append(f"{planned.tool} of {run.id} is {state}, and happened {self._happened[key]} times")
        self._log(run, losing=losing)

    def _asked(self, run: RunKeys, session: str, found: dict[str, str], called: Counter[str], *, losing: bool) -> None:
        """What was called is what its message names, each tool once: whatever key a second call had, it is one too
        many."""
        first = int(found.get("first", -1))
        line = self._client.lindex(SessionKeys(TENANT, session).items, first) if first >= 0 else None
        if line is None or not int(found.get("n_items", 0)):
            if not self._hasty and any(times > 1 for times in called.values()):
                self.wrong.append(f"run {run.id} called {dict(called)}")
            return
        wanted = Counter(calls([texts(Item.decode(line))]))
        if called - wanted and not self._hasty:
            self.wrong.append(f"run {run.id} called {dict(called)}, and was asked for {dict(wanted)}")
        if wanted - called and found["status"] == "completed" and not losing:
            self.wrong.append(f"run {run.id} is completed, called {dict(called)}, and was asked for {dict(wanted)}")

    def _within(self, first: float, last: float) -> bool:
        """Whether any fail-over was under way between these times, in s since the epoch."""
        return any(first <= end and begin <= last for begin, end in self._unsettled)

    def _forgotten(self, key: str) -> None:
        """An effect that happened, and that no journal knows: intents of what must not happen twice are waited for."""
        tool, at = self._tools[key]
        if self._hasty or (tool == "note" and self._within(at, at)):
            self.counts[f"effects of {tool} that went with a master"] += 1
        else:
            self.wrong.append(f"effect {key} of {tool} happened, and no journal knows it")

    def _log(self, run: RunKeys, *, losing: bool) -> None:
        """As a reader sees it, who passes over numbers that he has: they grow, every item is closed, the end is last.

        A batch may bring again what another one brought that was under way, but nothing else under its number. The end
        of an attempt that was taken up again is passed over too.
        """
        watched = Watched()
        whole: list[dict[str, Any]] = []
        told: dict[int, bytes] = {}
        entries = self._client.xrange(run.events)
        for identifier, fields in entries:
            number = -1
            for frame in fields[b"e"].split(b"\n"):
                event = orjson.loads(frame)
                number = event["sequence_number"]
                if number not in told:
                    told[number] = frame
                    whole.append(event)
                elif told[number] != frame:
                    self.wrong.append(f"run {run.id}: event {number} is two: {told[number]!r}, {frame!r}")
            if int(identifier.partition(b"-")[0]) != number + 1:
                self.wrong.append(f"run {run.id}: entry {identifier!r} ends with event {number}")
        for event in whole:
            if event["type"] not in TERMINAL_EVENTS or event is whole[-1]:
                watched.event(event)
        self.counts["events"] += len(told)
        if entries and not watched.ended:
            self.wrong.append(f"the log of run {run.id} has no end")
        for one in watched.wrong:
            if losing and one.startswith("item "):
                self.counts["logs with a hole that a master left"] += 1  # its last event bears the whole response
            else:
                self.wrong.append(f"run {run.id}: {one}")

    def _doubts(self) -> None:
        """Every effect in doubt is listed; a pointer to something that is not in doubt is allowed, and not counted."""
        listed = {member.decode() for member in self._client.zrange(QueueKeys().doubts, 0, -1)}
        self.wrong += [f"{place} is in doubt, and not listed" for place in self._in_doubt - listed]
        self.counts["in doubt"] = len(self._in_doubt)
        self.counts["in doubt, and happened"] = sum(self._happened[place.rsplit("/", 1)[1]] for place in self._in_doubt)


def _world(sink: Path) -> list[tuple[str, str, float]]:
    """Key, tool and time (s since the epoch) of what really happened; none where nothing ever did."""
    with closing(sqlite3.connect(sink)) as world:
        if world.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone() is None:
            return []
        return list(world.execute("SELECT idempotency_key, tool, at FROM effects ORDER BY id"))
