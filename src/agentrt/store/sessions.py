"""Beginning, claiming and ending runs: the scripts that decide who works on a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.errors import NotAcknowledged, OwnershipLost, ScriptError, StoreUnavailable
from agentrt.records import SCHEMA_VERSION, Request
from agentrt.store.begin import (
    Begin,
    Begun,
    Blocked,
    Busy,
    Conflict,
    Ended,
    Fork,
    Joined,
    Missing,
    Steered,
    Waiting,
)
from agentrt.store.connection import Redis, Sent, Unit
from agentrt.store.keys import RunKeys, SessionKeys, new_id
from agentrt.store.ownership import (
    Approval,
    Doubt,
    Owned,
    Owner,
    StoreConfig,
    check_guarded,
    decode_metadata,
    decode_window,
    unexpected,
)
from agentrt.store.removal import left_runs, remove_left
from agentrt.store.upgrade import upgrade

__all__ = ["Commit", "Sessions"]


@dataclass(frozen=True, slots=True)
class Commit:
    """How a run ends. `lines` are its stored items by number, an empty one where a number stays empty."""

    status: str
    result: bytes
    lines: Sequence[bytes]
    skip: int = 0
    retry: bool = False
    planned: bool = True
    steered: int = 0
    """How many of the messages that came to the run meanwhile are in `lines`."""
    asked: int = 0
    """How many of the lines, the first ones, are the run's input."""
    approvals: Sequence[Approval] = ()
    last_event: int = -1
    events: bytes = b""
    alone: bool = False
    """See `Begin.alone`."""


class Sessions:
    """The session slot's scripts about ownership."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._config = config
        self._begin = redis.scripts["begin"]
        self._commit = redis.scripts["commit"]
        self._claim = redis.scripts["claim"]

    async def begin(self, want: Begin, behind: Sent | None = None) -> Begun:
        """Own the session, or learn why not. The window is read in the same round trip.

        `behind`: the lease on its way; this is not sent again before that is entered, or an owner could be without one.
        Raises `NotAcknowledged` for a run that no client waits for, where too few replicas know it: it is handed over
        then, for the queue.
        """
        keys, config = want.session, self._config
        run = keys.run(want.run)
        unit = Unit(keys.tag).call(
            self._begin,
            (keys.hash, run.hash, keys.runs, keys.items),
            known=SCHEMA_VERSION,
            writes=config.writes.version,
            tenant=keys.tenant,
            session_id=keys.id,
            user=want.user,
            agent=want.agent,
            run_id=want.run,
            token=want.token,
            pod=config.pod,
            fp=want.fingerprint,
            by_key=int(want.by_key),
            create=int(want.create),
            policy="reject" if want.policy in {"reject", "steer"} else "wait",
            retried=int(want.retried),
            parent=want.parent,
            wait_ms=config.wait_ms,
            waiters_max=config.waiters_max,
            ttl=config.alone_ttl_s if want.alone else config.session_ttl_s,
            alone=int(want.alone),
            acknowledged=int(want.background and config.acknowledge),
            input=want.input,
            request=want.request,
        )
        unit.acknowledge(want.background)
        unit.behind = behind
        if not want.fresh:
            unit.command("LRANGE", keys.items, -config.window_items, -1).command("HGET", keys.hash, "summary")
        try:
            replies = await self._redis.execute(unit)
        except NotAcknowledged as error:
            if isinstance(head := error.replies[0], bytes):  # begun all the same, and nobody's attempt
                await self.hand_over(self._owned(keys, run, want.token, head, []), "waiting")
            raise
        reply = replies[0]
        if isinstance(reply, bytes):
            window: list[bytes] = [] if want.fresh else replies[1]
            owned = self._owned(keys, run, want.token, reply, window)
            owned.summary = b"" if want.fresh else replies[2] or b""
            if owned.attempt > 1:
                await self.load(owned, window)
            return owned
        if reply[0] == b"older":
            await upgrade(self._redis, keys, config.writes.version)
            return await self.begin(want, behind)
        if reply[0] == b"left":
            await remove_left(self._redis, keys, await left_runs(self._redis, keys))
            return await self.begin(want, behind)
        return self._refused(reply, keys)

    def _refused(self, reply: list[Any], keys: SessionKeys) -> Begun:
        status, rest = reply[0], [part.decode() for part in reply[1:]]
        match status:
            case b"joined":
                return Joined(rest[0], Owner(rest[0], rest[1], rest[2]))
            case b"waiting":
                return Waiting(rest[0], Owner(*rest[1:]))
            case b"busy":
                return Busy(Owner(*rest))
            case b"blocked":
                return Blocked(*rest)
            case b"ended":
                return Ended(rest[0])
            case b"steered":
                return Steered(rest[0])
            case b"conflict":
                return Conflict()
            case b"missing":
                return Missing()
            case b"fork":
                return Fork()
        raise unexpected(reply, f"begin {keys.id}")

    @staticmethod
    def _owned(keys: SessionKeys, run: RunKeys, token: str, head: bytes, window: list[bytes]) -> Owned:
        fence, seq, attempt, user, doubts, approvals, metadata = head.split(b"|", 6)
        return Owned(
            keys,
            run,
            token,
            int(fence),
            int(attempt),
            int(seq),
            user.decode(),
            [Doubt(*one) for one in orjson.loads(doubts)] if doubts else (),
            [Approval(*one) for one in orjson.loads(approvals)] if approvals else (),
            decode_metadata(metadata),
            decode_window(window),
        )

    async def claim(
        self, keys: SessionKeys, owner: Owner, token: str, *, early: bool = False, behind: Sent | None = None
    ) -> Owned | Waiting | Owner | None:
        """Displace an owner whose lease has run out. None: the run has ended by now. An owner: that one has done so
        before.

        `Waiting`: the run stands in line behind another one, and its place still holds.

        `early`: its lease lives, but its pod seems gone. Refused (None) while one of its effects may be under way.
        `behind`: as for `begin`.
        """
        run_id = owner.run
        run = keys.run(run_id)
        unit = Unit(keys.tag).call(
            self._claim,
            (keys.hash, run.hash, run.effects, keys.items),
            known=SCHEMA_VERSION,
            session_id=keys.id,
            run_id=run_id,
            old_token=owner.token,
            token=token,
            pod=self._config.pod,
            early=int(early),
        )
        unit.behind = behind
        unit.command("LRANGE", keys.items, -self._config.window_items, -1).command("HGET", keys.hash, "summary")
        # Read behind the claim in the same write; should yet another pod claim in between, the token tells.
        unit.command("HGETALL", run.hash).command("HGETALL", run.effects)
        reply, window, summary, record, effects = await self._redis.execute(unit)
        if isinstance(reply, list):
            rest = [part.decode() for part in reply[1:]] if reply[0] in {b"waiting", b"lost"} else []
            if reply[0] == b"waiting":
                return Waiting(run_id, Owner(*rest))
            if reply[0] in {b"lost", b"missing", b"intents"}:
                return Owner(run_id, *rest) if rest else None
            raise unexpected(reply, f"claim {run_id}")
        owned = self._owned(keys, run, token, reply, window)
        owned.summary = summary or b""
        self._take_over(owned, window, record, effects)
        return owned

    async def load(self, owned: Owned, lines: list[bytes]) -> None:
        """Read what earlier attempts of the run wrote: the run hash and the journal."""
        unit = Unit(owned.session.tag)
        unit.command("HGETALL", owned.run.hash).command("HGETALL", owned.run.effects)
        record, effects = await self._redis.execute(unit)
        self._take_over(owned, lines, record, effects)

    def _take_over(self, owned: Owned, lines: list[bytes], record: list[bytes], effects: list[bytes]) -> None:
        """What earlier attempts wrote becomes part of what this one knows. Raises `OwnershipLost`."""
        fields: dict[str, Any] = {record[i].decode(): record[i + 1] for i in range(0, len(record), 2)}
        if fields.get("token") != owned.token.encode():
            raise OwnershipLost(f"run {owned.run.id}: claimed by another pod")
        fields["effects"] = {effects[i].decode(): effects[i + 1] for i in range(0, len(effects), 2)}
        owned.record = fields
        first = int(fields["first"])
        # Items that an earlier, resumable attempt left in the history are the run's own, not its past.
        own = owned.first - first
        if own > 0:
            owned.window = decode_window(lines[: max(0, len(lines) - own)])
        owned.first = first

    async def commit(self, owned: Owned, end: Commit) -> int | None:
        """End the run; returns the session's new revision. Raises `OwnershipLost`, `StoreUnavailable`.

        None: more messages came to the run than it has taken in, and nothing is written.
        """
        keys, run, config = owned.session, owned.run, self._config
        run_ttl_s = config.alone_ttl_s if end.alone else max(config.run_ttl_s, 86_400)
        unit = Unit(keys.tag).call(
            self._commit,
            (keys.hash, run.hash, keys.items, run.effects, run.events, keys.runs),
            end.lines,
            session_id=keys.id,
            run_id=run.id,
            token=owned.token,
            fence=owned.fence,
            status=end.status,
            result=end.result,
            retry=int(end.retry),
            head=int(bool(end.lines)),
            planned=int(end.planned),
            approvals=orjson.dumps([list(one) for one in end.approvals]) if end.approvals else b"",
            skip=end.skip,
            steered=end.steered,
            asked=end.asked,
            last=end.last_event,
            batch=end.events,
            events_ttl=min(config.events_ttl_s, run_ttl_s),  # under its key the run may begin anew, with event 0
            ttl=config.alone_ttl_s if end.alone else config.session_ttl_s,
            run_ttl=run_ttl_s,
            doubts_ttl=config.session_ttl_s,
        )
        unit.acknowledge(config.acknowledge_turns)
        acknowledged = True
        try:
            reply = (await self._redis.execute(unit))[0]
        except NotAcknowledged as error:
            reply, acknowledged = error.replies[0], False
        if reply[0] == b"corrupt":
            raise ScriptError(f"run {run.id}: the history has {int(reply[1])} items, not {owned.first + end.skip}")
        if reply[0] == b"continue":
            return None
        check_guarded(reply[0], owned)
        if not acknowledged:  # committed for good; the same commit, sent again, asks the replicas again
            raise StoreUnavailable(f"run {run.id}: too few replicas have its end", "unacknowledged")
        return int(reply[1])

    async def steer(self, want: Begin, live: str) -> Steered | Conflict | None:
        """Give the live run one more message. None: it has ended by now, or has as many as may wait for its next step,
        or as much: 1 MiB.

        Sending it again is harmless under a key, and until another run than `live` has ended.
        """
        keys, run = want.session, want.session.run(want.run)
        unit = Unit(keys.tag).call(
            self._redis.scripts["steer"],
            (keys.hash, run.hash, keys.runs),
            known=SCHEMA_VERSION,
            session_id=keys.id,
            run_id=want.run,
            live=live,
            fp=want.fingerprint,
            by_key=int(want.by_key),
            input=want.input,
            steers_max=self._config.waiters_max,
            ttl=self._config.session_ttl_s,
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] == b"conflict":
            return Conflict()
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"steer {keys.id}")
        return Steered(reply[1].decode()) if reply[0] == b"steered" else None

    async def steers(self, owned: Owned) -> list[str]:
        """The messages that came to the run so far: of each, the JSON array of its items."""
        raw = (await self._redis.execute(Unit(owned.session.tag).command("HGET", owned.session.hash, "steers")))[0]
        return list(orjson.loads(raw)) if raw else []

    async def hand_over(self, owned: Owned, status: str = "") -> None:
        """Let go of a run so that a claim goes on with it, which is no attempt. Raises `OwnershipLost`.

        `status`: `waiting` for a run that nobody has worked on yet.
        """
        keys = (owned.session.hash, owned.run.hash)
        unit = Unit(owned.session.tag).call(
            self._redis.scripts["hand_over"], keys, token=owned.token, fence=owned.fence, status=status
        )
        check_guarded((await self._redis.execute(unit))[0][0], owned)

    async def revive(self, keys: SessionKeys, run_id: str) -> Begin | str:
        """Let a run that was given up be tried again: what begins it anew, or why not (`missing`, or its status)."""
        run = keys.run(run_id)
        unit = Unit(keys.tag).call(self._redis.scripts["revive"], (keys.hash, run.hash), known=SCHEMA_VERSION)
        reply = (await self._redis.execute(unit))[0]
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"revive {run_id}")
        if reply[0] != b"ok":
            return str(reply[-1].decode())
        return self._again(keys, run_id, *reply[1:])

    async def message(self, keys: SessionKeys, run_id: str) -> Begin | None:
        """What begins a run anew that may be resumed, whoever asks for it; None where it is gone."""
        unit = Unit(keys.tag).command("HMGET", keys.run(run_id).hash, "fp", "request", "input")
        (fp, request, inputs), user = await self._redis.execute(unit.command("HGET", keys.hash, "user"))
        if request is None or user is None:
            return None
        return self._again(keys, run_id, fp, request, inputs, user)

    @staticmethod
    def _again(keys: SessionKeys, run_id: str, fingerprint: bytes, raw: bytes, inputs: bytes, user: bytes) -> Begin:
        request = Request.decode(raw)
        return Begin(
            keys,
            run_id,
            new_id(),
            fingerprint.decode(),
            request.agent,
            raw,
            inputs,
            user.decode(),
            by_key=True,
            policy="reject",
            alone=request.alone,
        )

    async def owns(self, owned: Owned) -> bool:
        """Whether this pod still owns the session."""
        replies = await self._redis.execute(Unit(owned.session.tag).command("HGET", owned.session.hash, "owner"))
        return bool(replies[0] == owned.token.encode())

    async def leave(self, keys: SessionKeys, run: str, token: str, keep_ms: int) -> bool:
        """Stop waiting; True when it was granted in the meantime, and the caller owns the session."""
        script, known = self._redis.scripts["leave"], SCHEMA_VERSION
        unit = Unit(keys.tag).call(script, (keys.hash,), known=known, run_id=run, token=token, keep_ms=keep_ms)
        reply = (await self._redis.execute(unit))[0]
        return bool(reply[0] == b"granted")

    async def items_of(self, keys: SessionKeys, run_id: str) -> tuple[bytes | None, int, int]:
        """(status, number of the run's first item, count) of a run; status None where there is no such run."""
        raw = (
            await self._redis.execute(
                Unit(keys.tag).command("HMGET", keys.run(run_id).hash, "status", "first", "n_items")
            )
        )[0]
        return raw[0], int(raw[1] or 0), int(raw[2] or 0)

    async def history(self, keys: SessionKeys, end: int) -> list[bytes]:
        """The stored lines of the items before number `end`."""
        if end <= 0:
            return []
        lines: list[bytes] = (await self._redis.execute(Unit(keys.tag).command("LRANGE", keys.items, 0, end - 1)))[0]
        return lines
