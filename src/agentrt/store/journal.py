"""The journal of a run's effects: planned, intended, recorded. The records, and the scripts that write them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from agentrt.agent import Effect
from agentrt.errors import NotAcknowledged
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import Owned, StoreConfig, check_guarded

__all__ = [
    "Batch",
    "Intent",
    "Journal",
    "Outcome",
    "Planned",
    "Recorded",
    "asked",
    "effect_key",
    "fingerprint",
    "read_effects",
]


def asked(flag: bytes) -> str:
    """How somebody asked for the end of a run: `1`, `rollback`, or empty when nobody did."""
    return "" if flag == b"0" else flag.decode()


def effect_key(session: SessionKeys, run: str, step: int, index: int) -> str:
    """The idempotency key of a call: SHA-256 hex over (tenant, session, run, step, index). Never anything else."""
    text = f"{session.tenant}\0{session.id}\0{run}\0{step}\0{index}"
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(arguments: str) -> str:
    """SHA-256 hex of a call's arguments."""
    return hashlib.sha256(arguments.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Planned:
    """An effect as planned, stored before anything of it happens."""

    key: str
    step: int
    index: int
    tool: str
    effect: str
    arguments: str
    """The model's own string."""
    call_id: str
    """The provider's id of the call; never part of a key."""
    item: str
    """Id of the call's item."""
    output_index: int
    attempt: int
    pod: str
    fence: int = 0
    """The session's, when it was planned."""
    at: int = 0
    """When it was planned, in ms since the epoch."""
    fingerprint: str = ""
    """SHA-256 hex of the arguments: what is run is what was planned."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an effect ended: `recorded` with output, `failed` with error, or `in_doubt`. Times in ms since the epoch."""

    state: str
    output: str | None
    error: str | None
    at: int
    pod: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Intent:
    """An open intent found in the journal."""

    lock_until_ms: int
    holder: str


class Recorded(NamedTuple):
    """An outcome as it is written. `mode`: `tell` or `block` where it is in doubt, else empty."""

    key: str
    outcome: Outcome
    tool: str
    mode: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that travel with another write; `frames` is empty for none."""

    last: int = -1
    frames: bytes = b""


class Journal:
    """The session slot's scripts about effects and events."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._config = config

    async def plan(
        self,
        owned: Owned,
        step: int,
        plan: bytes,
        calls: Sequence[tuple[Planned, bool]],
        events: Batch,
    ) -> tuple[str, int]:
        """Keep a step's reply and its effects; the flagged ones are `intended` from here on.

        Returns (how somebody asked to cancel, empty when nobody did; deadline of the intents in ms of Redis time).
        Raises `OwnershipLost`, and `NotAcknowledged` where an effect that must not happen twice is intended, and too
        few replicas know it.
        """
        unknown_twice = any(intended and planned.effect == Effect.AT_MOST_ONCE for planned, intended in calls)
        tail: list[bytes | str] = []
        for planned, intended in calls:
            tail += (planned.key, orjson.dumps(planned), "1" if intended else "0")
        keys, run = owned.session, owned.run
        unit = Unit(keys.tag).call(
            self._redis.scripts["plan"],
            (keys.hash, run.hash, run.effects, run.events),
            tail,
            op=f"{owned.token}.plan.{step}",
            session_id=keys.id,
            run_id=run.id,
            step=step,
            plan=plan,
            last=events.last,
            batch=events.frames,
            events_ttl=self._config.events_ttl_s,
            lock_ms=self._config.lock_ms,
            ttl=self._config.session_ttl_s,
            **owned.guard,
        )
        unit.acknowledge(unknown_twice)
        _, cancelled, lock_until = await self._answer(unit, owned)
        return asked(cancelled), int(lock_until)

    async def intend(self, owned: Owned, keys: Sequence[str], *, acknowledge: bool = False) -> tuple[str, int]:
        """Take, or move, the locks of planned effects. Returns as `plan` does; `acknowledge`: raises as it does."""
        unit = Unit(owned.session.tag).call(
            self._redis.scripts["intend"],
            (owned.session.hash, owned.run.hash, owned.run.effects),
            keys,
            lock_ms=self._config.lock_ms,
            **owned.guard,
        )
        unit.acknowledge(acknowledge)
        _, cancelled, lock_until = await self._answer(unit, owned)
        return asked(cancelled), int(lock_until)

    async def unintend(self, owned: Owned, keys: Sequence[str]) -> None:
        """Effects that were intended, and do not run after all, are only planned again. Raises `OwnershipLost`."""
        unit = Unit(owned.session.tag).call(
            self._redis.scripts["unintend"],
            (owned.session.hash, owned.run.hash, owned.run.effects),
            keys,
            **owned.guard,
        )
        await self._answer(unit, owned)

    async def record(self, owned: Owned, op: str, outcomes: Sequence[Recorded], events: Batch) -> str:
        """Keep outcomes and release their locks. Returns how somebody asked to cancel the run, or an empty string.

        `outcomes`: (key, outcome, tool, `tell` or `block` for one that is in doubt, else empty).
        """
        tail: list[bytes | str] = []
        for key, outcome, tool, mode in outcomes:
            tail += (key, orjson.dumps(outcome), tool, mode)
        keys, run = owned.session, owned.run
        unit = Unit(keys.tag).call(
            self._redis.scripts["record"],
            (keys.hash, run.hash, run.effects, run.events),
            tail,
            op=f"{owned.token}.record.{op}",
            session_id=keys.id,
            run_id=run.id,
            last=events.last,
            batch=events.frames,
            events_ttl=self._config.events_ttl_s,
            **owned.guard,
        )
        _, cancelled = await self._answer(unit, owned)
        return asked(cancelled)

    async def evidence(self, owned: Owned, key: str, outcome: Outcome) -> None:
        """Keep the late result of a call whose run went on elsewhere, for whoever resolves it."""
        unit = Unit(owned.session.tag).call(
            self._redis.scripts["evidence"], (owned.run.effects,), key=key, result=orjson.dumps(outcome)
        )
        await self._redis.execute(unit)

    async def planned(self, owned: Owned, run_id: str, key: str) -> Planned | None:
        """An effect that an earlier run of the session planned; None where its record is gone."""
        effects = owned.session.run(run_id).effects
        raw = (await self._redis.execute(Unit(owned.session.tag).command("HGET", effects, key)))[0]
        return Planned(**orjson.loads(raw)) if raw else None

    async def emit(self, owned: Owned, events: Batch) -> str:
        """Append events to the log. Returns how somebody asked to cancel the run, or an empty string."""
        keys, run = owned.session, owned.run
        unit = Unit(keys.tag).call(
            self._redis.scripts["emit"],
            (keys.hash, run.hash, run.events),
            session_id=keys.id,
            run_id=run.id,
            last=events.last,
            batch=events.frames,
            events_ttl=self._config.events_ttl_s,
            **owned.guard,
        )
        _, cancelled = await self._answer(unit, owned)
        return asked(cancelled)

    async def now_ms(self, owned: Owned) -> int:
        """Redis' clock, the one that deadlines in the journal are written by."""
        seconds, micros = (await self._redis.execute(Unit(owned.session.tag).command("TIME")))[0]
        return int(seconds) * 1000 + int(micros) // 1000

    async def _answer(self, unit: Unit, owned: Owned) -> list[Any]:
        try:
            reply: list[Any] = (await self._redis.execute(unit))[0]
        except NotAcknowledged as error:
            check_guarded(error.replies[0][0], owned)
            raise
        check_guarded(reply[0], owned)
        return reply


def read_effects(stored: dict[str, bytes]) -> dict[str, tuple[Planned, Intent | None, Outcome | None]]:
    """The journal as a claim found it, by effect key."""
    journal = {}
    for key, raw in stored.items():
        if key[-1] in "@!~=":
            continue
        intent, outcome = stored.get(key + "@"), stored.get(key + "!")
        lock_until, _, holder = intent.decode().partition(",") if intent else ("", "", "")
        journal[key] = (
            Planned(**orjson.loads(raw)),
            Intent(int(lock_until), holder) if intent else None,
            Outcome(**orjson.loads(outcome)) if outcome else None,
        )
    return journal
