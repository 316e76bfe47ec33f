"""What must hold in Redis and in the world once everything has come to rest, looked at from outside."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import orjson
import redis
from tests.conftest import leaked_keys
from tests.harness.runs import TENANT, status

from agentrt.records import TERMINAL
from agentrt.store.journal import read_effects
from agentrt.store.keys import QueueKeys, RunKeys, SessionKeys
from loadtest.chaos.stream import Watched

__all__ = ["Inspection", "at_rest"]

_RUN = re.compile(rb"agentrt:\{%b/([0-9A-Za-z]{22})\}:run:([0-9A-Za-z]{22})" % TENANT.encode())
_SESSION = re.compile(rb"agentrt:\{%b/([0-9A-Za-z]{22})\}" % TENANT.encode())


def at_rest(client: redis.Redis) -> bool:
    """Whether nothing is at work and nothing waits."""
    queue = QueueKeys()
    try:
        return client.zcard(queue.leases) == client.zcard(queue.ready) == 0 and not any(
            client.hget(key, "owner")
            for key in client.scan_iter("agentrt:{*/*}", 1000, "hash")
            if _SESSION.fullmatch(key)
        )
    except redis.RedisError:
        return False


class Inspection:
    """Holds every session, run, journal and log against each other and the world. `wrong` is what does not fit."""

    def __init__(self, client: redis.Redis, sink: Path) -> None:
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self._client = client
        self._happened = Counter(_world(sink))
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
        self.wrong += [f"effect {key} happened, and no journal knows it" for key in set(self._happened) - self._planned]
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
        if found["status"] not in TERMINAL:
            self.wrong.append(f"run {run.id} is {found['status']}")
        stored = {name.decode(): value for name, value in self._client.hgetall(run.effects).items()}
        for key, (planned, _, outcome) in read_effects(stored).items():
            state = outcome.state if outcome is not None else "open"
            self._planned.add(key)
            self.counts[f"calls, {planned.effect}, {state}"] += 1
            if planned.effect == "read_only":
                continue
            if state == "in_doubt":
                self._in_doubt.add(f"{TENANT}/{session}/{run.id}/{key}")
                if planned.effect != "at_most_once":
                    self.wrong.append(f"{planned.tool} of {run.id} is {planned.effect}, and in doubt")
            if self._happened[key] not in {"recorded": {1}, "failed": {0}, "in_doubt": {0, 1}}.get(state, set()):
                self.wrong.append(f"{planned.tool} of {run.id} is {state}, and happened {self._happened[key]} times")
        self._log(run)

    def _log(self, run: RunKeys) -> None:
        """As a reader sees it, who passes over numbers that he has: they grow, every item is closed, the end is last.

        A batch may bring again what another one brought that was under way, but nothing else under its number.
        """
        watched = Watched()
        told: dict[int, bytes] = {}
        entries = self._client.xrange(run.events)
        for identifier, fields in entries:
            number = -1
            for frame in fields[b"e"].split(b"\n"):
                event = orjson.loads(frame)
                number = event["sequence_number"]
                if number not in told:
                    told[number] = frame
                    watched.event(event)
                elif told[number] != frame:
                    self.wrong.append(f"run {run.id}: event {number} is two: {told[number]!r}, {frame!r}")
            if int(identifier.partition(b"-")[0]) != number + 1:
                self.wrong.append(f"run {run.id}: entry {identifier!r} ends with event {number}")
        self.counts["events"] += len(told)
        if entries and not watched.ended:
            self.wrong.append(f"the log of run {run.id} has no end")
        self.wrong += [f"run {run.id}: {one}" for one in watched.wrong]

    def _doubts(self) -> None:
        """Every effect in doubt is listed; a pointer to something that is not in doubt is allowed, and not counted."""
        listed = {member.decode() for member in self._client.zrange(QueueKeys().doubts, 0, -1)}
        self.wrong += [f"{place} is in doubt, and not listed" for place in self._in_doubt - listed]
        self.counts["in doubt"] = len(self._in_doubt)
        self.counts["in doubt, and happened"] = sum(self._happened[place.rsplit("/", 1)[1]] for place in self._in_doubt)


def _world(sink: Path) -> list[str]:
    """The keys of what really happened; none where nothing ever did."""
    with closing(sqlite3.connect(sink)) as world:
        if world.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone() is None:
            return []
        return [row[0] for row in world.execute("SELECT idempotency_key FROM effects ORDER BY id")]
