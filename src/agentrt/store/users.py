"""The user slot: what is remembered of one user. Scripts and reads; what it means is the business of `memory`.

Every write names the generation in which its work was begun; an erasure begins a new one, so what finishes later is
refused (`UserGone`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from agentrt.errors import ScriptError, UserGone
from agentrt.records import SCHEMA_VERSION
from agentrt.store.connection import Redis, Sent, Unit
from agentrt.store.keys import SessionKeys, UserKeys, users_channel
from agentrt.store.ownership import StoreConfig, unexpected

__all__ = ["Erased", "Greeting", "Head", "Pending", "StoredSummary", "Turn", "Users"]

_NEWEST = 16
"""Memories that are read with a greeting: what a pod's index misses is hardly ever more."""
_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a user's memory. `news` are memories (number, JSON) behind the one that the reader named."""

    user: UserKeys
    gen: str
    frev: int
    epoch: int
    mseq: int
    profile: bytes
    left: int = 0
    """Facts that hold and that the profile has no room for."""
    news: Sequence[tuple[int, bytes]] = ()


class StoredSummary(NamedTuple):
    """A session's summary as stored, and how many of the session's items had been deleted when it was read."""

    raw: bytes
    gone: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A raw turn to be remembered: its item, its JSON, and whether facts are to be drawn from it."""

    item: str
    raw: bytes
    extract: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """An item from which facts are to be drawn; `tries` so far, and why the last one failed."""

    item: str
    number: int
    tries: int = 0
    reason: str = ""

    def state(self) -> bytes:
        """The stored form."""
        return orjson.dumps([self.number, self.tries, self.reason])


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed from the user slot. `at_ms`: when, Redis' clock."""

    gen: str
    at_ms: int
    facts: int
    memories: int
    vectors: int


class Greeting:
    """A greeting on its way; `await` it for the head."""

    def __init__(self, user: UserKeys, known: int, sent: Sent) -> None:
        self._user = user
        self._known = known
        self._sent = sent

    async def head(self) -> Head:
        """What Redis answered."""
        return _head(self._user, self._known, await self._sent)

    def abandon(self) -> None:
        """Nobody will wait for it."""
        self._sent.abandon()


def _head(user: UserKeys, known: int, replies: list[Any]) -> Head:
    (gen, frev, epoch, mseq, profile, left), news = replies
    last = int(mseq or 0)
    numbered = [(known + 1 + i, raw) for i, raw in enumerate(news) if raw and known + 1 + i <= last]
    return Head(
        user, (gen or b"").decode(), int(frev or 0), int(epoch or 0), last, profile or b"", int(left or 0), numbered
    )


class Users:
    """Reads and writes of the user slot."""

    def __init__(self, redis: Redis, config: StoreConfig, ttl_s: int) -> None:
        self._redis = redis
        self._scripts = redis.scripts
        self._config = config
        self._ttl = ttl_s
        self._sessions_ttl = max(ttl_s, config.session_ttl_s)

    # --- the head -------------------------------------------------------------------------------------------------

    def greet(self, user: UserKeys, session: str, known: int = 0) -> Greeting:
        """Enter a session in the user's index and read the head; sent now, read when awaited."""
        unit = Unit(user.tag).call(
            self._scripts["user_greet"],
            (user.hash, user.sessions),
            session=session,
            ttl=self._ttl,
            sessions_ttl=self._sessions_ttl,
        )
        return Greeting(user, known, self._redis.send(_with_news(unit, user, known)))

    async def head(self, user: UserKeys, known: int = 0) -> Head:
        """The head; of a user of whom nothing is known too (`gen` is empty)."""
        unit = Unit(user.tag).command("HMGET", user.hash, "gen", "frev", "epoch", "mseq", "profile", "left")
        return _head(user, known, await self._redis.execute(_with_news(unit, user, known)))

    async def erased_at(self, user: UserKeys) -> int | None:
        """When the user was erased last, ms; None for never, or so long ago that it is forgotten."""
        raw = (await self._redis.execute(Unit(user.tag).command("HGET", user.hash, "erased")))[0]
        return int(raw) if raw else None

    # --- memories -------------------------------------------------------------------------------------------------

    async def remember(self, user: UserKeys, gen: str, turns: Sequence[Turn]) -> tuple[int, int]:
        """Keep raw turns; returns how many were new, and the number of the newest of all.

        `gen` empty: whatever life the user is in. Raises `UserGone`.
        """
        added = newest = 0
        for start in range(0, max(1, len(turns)), 200):
            tail: list[str | bytes] = []
            for turn in turns[start : start + 200]:
                tail += [turn.item, "1" if turn.extract else "0", turn.raw]
            keys = (user.hash, user.memories, user.sources, user.pending)
            unit = Unit(user.tag).call(self._scripts["user_remember"], keys, tail, gen=gen, ttl=self._ttl)
            reply = (await self._redis.execute(unit))[0]
            _check(reply, user)
            added, newest = added + int(reply[1]), int(reply[2])
        return added, newest

    async def memories(self, user: UserKeys, start: int, end: int) -> list[tuple[int, bytes]]:
        """The memories with numbers from `start` to `end`, both included."""
        found: list[tuple[int, bytes]] = []
        for first in range(start, end + 1, _PAGE):
            numbers = range(first, min(first + _PAGE, end + 1))
            raw = (await self._redis.execute(Unit(user.tag).command("HMGET", user.memories, *numbers)))[0]
            found += [(number, value) for number, value in zip(numbers, raw, strict=True) if value]
        return found

    async def vectors(self, user: UserKeys, numbers: Sequence[int]) -> dict[int, bytes]:
        """The embeddings that there are of these memories."""
        found: dict[int, bytes] = {}
        for start in range(0, len(numbers), _PAGE):
            page = numbers[start : start + _PAGE]
            raw = (await self._redis.execute(Unit(user.tag).command("HMGET", user.vectors, *page)))[0]
            found.update((number, value) for number, value in zip(page, raw, strict=True) if value)
        return found

    async def embed(self, user: UserKeys, gen: str, vectors: Mapping[int, bytes]) -> None:
        """Keep embeddings. Raises `UserGone`."""
        tail = [part for pair in vectors.items() for part in pair]
        unit = Unit(user.tag).call(
            self._scripts["user_vectors"], (user.hash, user.memories, user.vectors), tail, gen=gen, ttl=self._ttl
        )
        _check((await self._redis.execute(unit))[0], user)

    async def recap(self, user: UserKeys, gen: str, item: str, raw: bytes, rests: Sequence[str]) -> None:
        """Keep a summary as a memory, unless one of the items that it rests on was forgotten. Raises `UserGone`."""
        unit = Unit(user.tag).call(
            self._scripts["user_recap"],
            (user.hash, user.memories, user.sources),
            rests,
            gen=gen,
            ttl=self._ttl,
            item=item,
            raw=raw,
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] != b"forgotten":
            _check(reply, user)

    async def known(self, user: UserKeys, prefix: str) -> list[str]:
        """The ids that begin with `prefix` of all that is remembered."""
        unit = Unit(user.tag).command("HGETALL", user.sources)
        found = _strings((await self._redis.execute(unit))[0])
        return [item for item, number in found.items() if item.startswith(prefix) and number != b"0"]

    async def forget(self, user: UserKeys, gen: str, items: Sequence[str], *, keep: bool = False) -> int:
        """Remove the memories of these items; returns how many there were. Raises `UserGone`.

        `keep` their ids, as those of items that are not to be remembered any more. `gen` empty: of whatever life.
        """
        gone = 0
        keys = (user.hash, user.memories, user.vectors, user.sources, user.pending)
        for start in range(0, len(items), 500):
            unit = Unit(user.tag).call(
                self._scripts["user_forget"],
                keys,
                items[start : start + 500],
                gen=gen,
                ttl=self._ttl,
                keep=int(keep),
            )
            reply = (await self._redis.execute(unit))[0]
            _check(reply, user)
            gone += int(reply[1])
        return gone

    async def number(self, user: UserKeys, item: str) -> int | None:
        """The number of the memory that was made of an item."""
        return await self.source(user, item) or None

    async def source(self, user: UserKeys, item: str) -> int | None:
        """The number of the memory that was made of an item; 0 for one that was forgotten, None for any other."""
        raw = (await self._redis.execute(Unit(user.tag).command("HGET", user.sources, item)))[0]
        return None if raw is None else int(raw)

    # --- facts ----------------------------------------------------------------------------------------------------

    async def facts(self, user: UserKeys) -> tuple[str, int, dict[str, bytes]]:
        """(generation, revision, facts by id)."""
        unit = Unit(user.tag).command("HMGET", user.hash, "gen", "frev").command("HGETALL", user.facts)
        (gen, frev), raw = await self._redis.execute(unit)
        return (gen or b"").decode(), int(frev or 0), _strings(raw)

    async def resolve(
        self,
        user: UserKeys,
        *,
        op: str,
        gen: str,
        frev: int,
        profile: bytes,
        left: int,
        facts: Mapping[str, bytes],
        settled: Iterable[str] = (),
    ) -> bool | list[str]:
        """Write facts (empty: drop) and the profile if the revision is still `frev`. Raises `UserGone`.

        Nothing is written where one of the `settled` items is not pending any more; those are returned.
        """
        tail = [*(part for pair in facts.items() for part in pair), *settled]
        unit = Unit(user.tag).call(
            self._scripts["user_resolve"],
            (user.hash, user.facts, user.pending),
            tail,
            op=op,
            gen=gen,
            frev=frev,
            profile=profile,
            left=left,
            ttl=self._ttl,
            puts=len(facts),
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] == b"moved":
            return False
        if reply[0] == b"settled":
            return [item.decode() for item in reply[1:]]
        _check(reply, user)
        return True

    async def pending(self, user: UserKeys) -> tuple[str, list[Pending]]:
        """(generation, items without facts so far, the oldest first)."""
        unit = Unit(user.tag).command("HGET", user.hash, "gen").command("HGETALL", user.pending)
        gen, raw = await self._redis.execute(unit)
        return (gen or b"").decode(), _pending(raw)

    async def retry(self, user: UserKeys, gen: str, failed: Pending) -> None:
        """Keep why no facts could be drawn from an item; nothing is kept of one that is gone."""
        unit = Unit(user.tag).call(
            self._scripts["user_retry"], (user.hash, user.pending), gen=gen, item=failed.item, state=failed.state()
        )
        await self._redis.execute(unit)

    # --- sessions -------------------------------------------------------------------------------------------------

    async def sessions(self, user: UserKeys) -> dict[str, int]:
        """Session -> ms of its last greeting. Some may be gone, or another user's whose session was named."""
        raw = (await self._redis.execute(Unit(user.tag).command("HGETALL", user.sessions)))[0]
        return {name: int(value) for name, value in _strings(raw).items()}

    async def drop_sessions(self, user: UserKeys, sessions: Sequence[str]) -> None:
        """Take sessions out of the index."""
        if sessions:
            await self._redis.execute(Unit(user.tag).command("HDEL", user.sessions, *sessions))

    async def summarize(self, session: SessionKeys, user: str, expected: StoredSummary, summary: bytes) -> bool:
        """Replace a session's summary, if it is still `expected` and no item was deleted meanwhile."""
        unit = Unit(session.tag).call(
            self._scripts["summarize"],
            (session.hash,),
            known=SCHEMA_VERSION,
            user=user,
            expected=expected.raw,
            gone=expected.gone,
            summary=summary,
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"summarize {session.id}")
        return bool(reply[0] == b"ok")

    async def summary(self, session: SessionKeys) -> StoredSummary:
        """A session's summary as stored; empty for none."""
        raw, gone = (await self._redis.execute(Unit(session.tag).command("HMGET", session.hash, "summary", "gone")))[0]
        return StoredSummary(raw or b"", int(gone or 0))

    # --- all of it ------------------------------------------------------------------------------------------------

    async def erase(self, user: UserKeys, op: str, ttl_s: int) -> Erased:
        """Begin a new generation with nothing in it; `op` names this erasure."""
        keys = (user.hash, user.facts, user.memories, user.vectors, user.sources, user.pending)
        name = f"{user.tenant}/{user.user}"
        unit = Unit(user.tag).call(
            self._scripts["user_erase"], keys, op=op, ttl=ttl_s, channel=users_channel(), name=name
        )
        gen, at_ms, facts, memories, vectors = (await self._redis.execute(unit))[0]
        return Erased(gen.decode(), int(at_ms), int(facts), int(memories), int(vectors))


def _with_news(unit: Unit, user: UserKeys, known: int) -> Unit:
    return unit.command("HMGET", user.memories, *range(known + 1, known + 1 + _NEWEST))


def _strings(raw: list[bytes]) -> dict[str, bytes]:
    return {raw[i].decode(): raw[i + 1] for i in range(0, len(raw), 2)}


def _pending(raw: list[bytes]) -> list[Pending]:
    found = [Pending(item, *orjson.loads(state)) for item, state in _strings(raw).items()]
    return sorted(found, key=lambda one: one.number)


def _check(reply: list[Any], user: UserKeys) -> None:
    if reply[0] == b"gone":
        raise UserGone(f"user {user.user}: erased meanwhile")
    if reply[0] != b"ok":
        raise ScriptError(f"user {user.user}: unexpected reply {reply[0]!r}")
