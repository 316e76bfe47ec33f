"""What most tests of this folder stand on: a connected `Redis`, the store's classes over it, and messages to send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import redis as redis_py

from agentrt.errors import StoreUnavailable
from agentrt.store.begin import Begin, Begun, Waiting
from agentrt.store.connection import Redis, RedisOptions
from agentrt.store.conversations import Conversations
from agentrt.store.doubts import Doubts
from agentrt.store.events import Events
from agentrt.store.journal import Journal, Outcome, Planned, Recorded, effect_key, fingerprint
from agentrt.store.keys import SessionKeys, lease_member, new_id
from agentrt.store.leases import Leases
from agentrt.store.locks import LockConfig, Locks, open_locks
from agentrt.store.notices import Notices
from agentrt.store.ownership import Owned, Owner, StoreConfig
from agentrt.store.queue import Queue
from agentrt.store.scripts import Script
from agentrt.store.sessions import Commit, Sessions
from agentrt.telemetry import Telemetry


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Redis]:
    """The store's connection to `url`, closed in the end."""
    redis = Redis(RedisOptions(url, **options))
    await redis.start()
    try:
        assert redis.connected
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def locking(
    url: str,
    *,
    pod: str = "locks-a",
    urls: Sequence[str] = (),
    notices_url: str = "",
    telemetry: Telemetry | None = None,
    **config: Any,
) -> AsyncIterator[Locks]:
    """The named locks of one pod, listening. `urls` names the nodes of a quorum; `config` overrides `LockConfig`."""
    async with connected(url) as redis:
        notices = Notices(redis, RedisOptions(notices_url or url), pod)
        notices.start()
        locks = await open_locks(urls, redis, notices, LockConfig(pod, **config), telemetry or Telemetry())
        try:
            while not await notices.listening(pod):
                await asyncio.sleep(0.002)
            yield locks
        finally:
            await locks.aclose()
            await notices.aclose()


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Look again and again from outside until it is so."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


REQUEST = b'{"agent":"support","created":1,"options":{}}'


class Store:
    """The store's classes as one pod builds them. `config` overrides `StoreConfig`."""

    def __init__(self, redis: Redis, **config: Any) -> None:
        self.redis = redis
        self.config = StoreConfig(**{"pod": "pod-a", **config})
        self.sessions = Sessions(redis, self.config)
        self.journal = Journal(redis, self.config)
        self.doubts = Doubts(redis, self.config)
        self.leases = Leases(redis, self.config)
        self.queue = Queue(redis, self.config)
        self.conversations = Conversations(redis, self.config)
        self.events = Events(redis, self.config)
        self.notices = Notices(redis, RedisOptions(""), self.config.pod)
        """Not started: who waits for a named lock here asks again and again."""

    async def begin(self, want: Begin) -> Begun:
        return await self.sessions.begin(want)

    async def own(self, want: Begin) -> Owned:
        """Begin, and insist on owning."""
        outcome = await self.sessions.begin(want)
        assert isinstance(outcome, Owned), outcome
        return outcome

    async def claim(self, owned: Owned, token: str | None = None, *, early: bool = False) -> Owned | None:
        """Displace `owned`; None where there is another owner by now, or nobody to displace."""
        owner = Owner(owned.run.id, owned.token, "pod-of-the-dead")
        outcome = await self.sessions.claim(owned.session, owner, token or new_id(), early=early)
        assert not isinstance(outcome, Waiting)
        return outcome if isinstance(outcome, Owned) else None

    async def reason(self) -> str:
        """Why a begin is refused by Redis, as `StoreUnavailable` has it."""
        try:
            outcome = await self.begin(message(new_session()))
        except StoreUnavailable as error:
            return error.reason
        raise AssertionError(f"begin went through: {outcome}")


def new_session(tenant: str = "acme") -> SessionKeys:
    return SessionKeys(tenant, new_id())


def message(session: SessionKeys, **changes: Any) -> Begin:
    """A message nobody has sent before; it may create the session."""
    want = Begin(
        session,
        new_id(),
        new_id(),
        new_id(),
        "support",
        request=b'{"agent":"support","created":1,"options":{}}',
        input=b"[]",
        create=True,
    )
    return replace(want, **changes)


def again(want: Begin, **changes: Any) -> Begin:
    """The same message in another request: a new token, and a new run id unless it came with an Idempotency-Key."""
    return replace(want, **{"token": new_id(), "run": want.run if want.by_key else new_id(), **changes})


def ending(*lines: bytes, **changes: Any) -> Commit:
    return replace(Commit("completed", b'{"status":"completed"}', lines), **changes)


def planned(owned: Owned, index: int = 0, step: int = 0) -> Planned:
    key = effect_key(owned.session, owned.run.id, step, index)
    return Planned(
        key,
        step,
        index,
        "refund",
        "idempotent",
        "{}",
        f"call_{index}",
        f"fc_{index}",
        index,
        1,
        "pod-a",
        fingerprint=fingerprint("{}"),
    )


def outcome_of(text: str = "done", state: str = "recorded") -> Outcome:
    return Outcome(state, text, None, 1, "pod-a", 1)


def recorded(effect: Planned, text: str = "done", state: str = "recorded") -> Recorded:
    """An outcome as it is written."""
    return Recorded(effect.key, outcome_of(text, state), effect.tool, "tell" if state == "in_doubt" else "")


def lease_of(want: Begin) -> bytes:
    return lease_member(want.session, want.run, want.token)


def without(script: Script, line: str) -> Script:
    """The script as it would be if somebody took that line out: for negative controls."""
    text = script.source[script.source.index(f"-- {script.name}: ") :]
    assert text.count(line + "\n") == 1
    return Script(script.name, text.replace(line + "\n", ""))


def old_header(tenant: str, **fields: str) -> dict[str, str]:
    """A session header as the prototype wrote it: schema version 0, which no pod works on before it is brought up."""
    header = {"v": "0", "tenant": tenant, "user": "ann", "agent": "support", "created": "1700000000000"}
    header |= {"rev": "3", "seq": "2", "fence": "1700000000000000", "waiters": "", "owner": "", "run": ""}
    return header | {"last": "R" * 22, "meta:topic": "billing", "meta:v": "not the version", **fields}


def dump(client: redis_py.Redis, session: SessionKeys) -> dict[str, Any]:
    """The session's header as text."""
    return {name.decode(): value.decode() for name, value in client.hgetall(session.hash).items()}


ITEM = b'{"id":"msg_1","type":"message"}'


async def commit(store: Store, owned: Owned, *lines: bytes, **changes: Any) -> int | None:
    """End a run, with one item unless others are given."""
    return await store.sessions.commit(owned, ending(*(lines or (ITEM,)), **changes))


async def line_up(store: Store, want: Begin) -> Waiting:
    """A message that has to wait."""
    outcome = await store.begin(want)
    assert isinstance(outcome, Waiting), outcome
    return outcome
