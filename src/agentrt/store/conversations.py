"""Sessions between turns: create, look at, append to, delete; and single runs as stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.errors import ForeignState, StoreUnavailable
from agentrt.records import SCHEMA_VERSION, Item, check_version, upcast
from agentrt.store.connection import Redis, Unit
from agentrt.store.copying import portions, write_portion
from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import StoreConfig, unexpected
from agentrt.store.removal import left_runs, remove_left
from agentrt.store.upgrade import upgrade

__all__ = ["Appended", "Conversations", "Header", "StoredRun"]


_KEYED_MAX = 32
"""How many of a session's appends with a client's key are known again; a retry comes within seconds."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the session hash says."""

    created_ms: int
    seq: int
    metadata: dict[str, str]
    user: str
    live_run: str
    head: str
    alone: bool
    """Whether it is a single run's own."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as kept: `result` is the final response body, empty while the run goes on."""

    status: str
    request: bytes
    input: bytes
    result: bytes
    created_ms: int
    first: int
    n_items: int
    asked: int
    """How many of its items were its input, where the history alone has them; `input` is empty then."""


@dataclass(frozen=True, slots=True)
class Appended:
    """`ok`, `missing`, `busy` (with the live run), or `moved` (another writer was faster; with the number now next).

    For an append with a client's key also `again` (with the number its items have since the first time), and `other`:
    the key came with something else then.
    """

    outcome: str
    detail: str = ""


class Conversations:
    """Reads and client writes on the session slot."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._ttl = config.session_ttl_s
        self._writes = config.writes

    async def create(
        self,
        keys: SessionKeys,
        *,
        op: str,
        lines: Sequence[bytes] = (),
        user: str = "",
        head: str = "",
        metadata: bytes = b"{}",
        at: int = 0,
    ) -> int | None:
        """Begin a session; returns its creation time in ms, None where the id is taken by another creation.

        `at`: so many items are there already, see `copy`.
        """
        unit = Unit(keys.tag).call(
            self._redis.scripts["create"],
            (keys.hash, keys.items),
            lines,
            op=op,
            v=self._writes.version,
            tenant=keys.tenant,
            user=user,
            head=head,
            metadata=metadata,
            ttl=self._ttl,
            at=at,
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] == b"moved":
            raise StoreUnavailable(f"session {keys.id}: {reply[1]} of {at} copied items are there", "busy")
        return int(reply[1]) if reply[0] == b"ok" else None

    async def copy(self, source: SessionKeys, count: int, to: SessionKeys, *, op: str, user: str, head: str) -> bool:
        """Begin session `to` with the first `count` items of `source`; False where those are gone by now.

        Sent again under the same `op`, also by another pod at once, it is one session.
        """
        at, last = 0, list[bytes]()
        async for portion in portions(self._redis, source, count):
            if last:
                await write_portion(self._redis, to, at, last)
                at += len(last)
            last = portion
        if at + len(last) != count:
            return False
        await self.create(to, op=op, lines=last, user=user, head=head, at=at)
        return True

    async def header(self, keys: SessionKeys, *, alone: bool = False) -> Header | None:
        """The session's header, upcast where it is older; None where there is no such session.

        None also for one that is a single run's own, which nobody can name, unless `alone`.
        """
        raw = (await self._redis.execute(Unit(keys.tag).command("HGETALL", keys.hash)))[0]
        if not raw:
            return None
        fields = upcast({raw[i].decode(): raw[i + 1].decode() for i in range(0, len(raw), 2)}, SCHEMA_VERSION)
        if fields["tenant"] != keys.tenant:
            raise ForeignState(f"session {keys.id}: the key holds another tenant's state")
        if "alone" in fields and not alone:
            return None
        return Header(
            created_ms=int(fields["created"]),
            seq=int(fields["seq"]),
            metadata=orjson.loads(fields.get("metadata") or "{}"),
            user=fields.get("user", ""),
            live_run=fields.get("run", ""),
            head=fields.get("head", ""),
            alone="alone" in fields,
        )

    async def _current(self, keys: SessionKeys, unit: Unit) -> list[Any]:
        """The reply of a script, after an upgrade where the session was older."""
        reply: list[Any] = (await self._redis.execute(unit))[0]
        if reply[0] == b"older":
            await upgrade(self._redis, keys, self._writes.version)
            reply = (await self._redis.execute(unit))[0]
        return reply

    async def update(self, keys: SessionKeys, metadata: bytes) -> bool:
        """Replace the metadata; False where there is no such session."""
        unit = Unit(keys.tag).call(self._redis.scripts["update"], (keys.hash,), known=SCHEMA_VERSION, metadata=metadata)
        reply = await self._current(keys, unit)
        if reply[0] not in {b"ok", b"missing"}:
            raise unexpected(reply, f"update {keys.id}")
        return bool(reply[0] == b"ok")

    async def append(self, keys: SessionKeys, op: str, seq: int, items: Sequence[Item], keyed: str = "") -> Appended:
        """Append items whose ids were numbered from `seq` on. `keyed`: see `append.lua`."""
        unit = Unit(keys.tag).call(
            self._redis.scripts["append"],
            (keys.hash, keys.items),
            [item.encode() for item in items],
            op=op,
            known=SCHEMA_VERSION,
            seq=seq,
            keyed=keyed,
            keyed_max=_KEYED_MAX,
            ttl=self._ttl,
        )
        reply = await self._current(keys, unit)
        if reply[0] not in {b"ok", b"again", b"other", b"missing", b"busy", b"moved"}:
            raise unexpected(reply, f"append {keys.id}")
        return Appended(reply[0].decode(), reply[1].decode() if len(reply) > 1 else "")

    async def item(self, keys: SessionKeys, number: int) -> Item | None:
        """The item with that number; None where it was deleted or never finished, or the session is of one run.

        Raises `SchemaNewer`.
        """
        unit = Unit(keys.tag).command("LINDEX", keys.items, number).command("HMGET", keys.hash, "alone", "v")
        line, (alone, version) = await self._redis.execute(unit)
        if version is not None:
            check_version(version)
        return Item.decode(line) if line and alone is None else None

    async def erase_item(
        self, keys: SessionKeys, number: int, item: Item, summary: bytes = b"", rest: bytes = b""
    ) -> Appended:
        """Delete one item; its number stays empty. `rest` takes the place of the summary, if it is still `summary`."""
        unit = Unit(keys.tag).call(
            self._redis.scripts["erase_item"],
            (keys.hash, keys.items),
            known=SCHEMA_VERSION,
            number=number,
            expected=item.encode(),
            summary=summary,
            rest=rest,
        )
        reply = await self._current(keys, unit)
        if reply[0] not in {b"ok", b"missing", b"busy", b"moved"}:
            raise unexpected(reply, f"erase {keys.id}")
        return Appended(reply[0].decode(), reply[1].decode() if len(reply) > 1 else "")

    async def items(self, keys: SessionKeys, start: int, stop: int) -> list[tuple[int, bytes]]:
        """(number, stored line) of the items from `start` to before `stop`, empty numbers left out."""
        start = max(start, 0)
        if stop <= start:
            return []
        lines = (await self._redis.execute(Unit(keys.tag).command("LRANGE", keys.items, start, stop - 1)))[0]
        return [(start + i, line) for i, line in enumerate(lines) if line]

    async def delete(self, keys: SessionKeys) -> bool:
        """Remove a session and all that its runs left. Whatever still runs is refused from here on.

        Where this stops half-way, asking again ends it, and so does whoever begins the session anew. True also for
        one of which only runs were left.
        Raises `SchemaNewer`.
        """
        unit = Unit(keys.tag).call(
            self._redis.scripts["delete"], (keys.hash, keys.items, keys.runs), known=SCHEMA_VERSION
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] == b"newer":
            raise unexpected(reply, f"delete {keys.id}")
        existed, *runs = reply
        await remove_left(self._redis, keys, [run.decode() for run in runs])
        return bool(existed == b"1")

    async def runs(self, keys: SessionKeys) -> list[str]:
        """The ids of a session's runs, the oldest first; also of those that a deletion has not come to."""
        return await left_runs(self._redis, keys)

    async def effects(self, keys: SessionKeys, runs: Sequence[str]) -> list[str]:
        """`tenant/session/run/effect key` of every effect that these runs planned."""
        names = []
        for run in runs:
            fields = (await self._redis.execute(Unit(keys.tag).command("HKEYS", keys.run(run).effects)))[0]
            plain = {field.decode().rstrip("@!~=") for field in fields}
            names += [f"{keys.tenant}/{keys.id}/{run}/{key}" for key in plain]
        return names

    async def run(self, keys: SessionKeys, run_id: str) -> StoredRun | None:
        """A run as stored; None where there is no such run."""
        names = ("status", "request", "input", "result", "created", "first", "n_items", "asked")
        hash_key = keys.run(run_id).hash
        unit = Unit(keys.tag).command("HMGET", hash_key, *names).command("HMGET", keys.hash, "v", "tenant")
        raw, (version, tenant) = await self._redis.execute(unit)
        if raw[0] is None or tenant is None or raw[0] == b"steered":  # which never was a run
            return None
        check_version(version)
        if tenant != keys.tenant.encode():
            raise ForeignState(f"run {run_id}: the key holds another tenant's state")
        status, request, input_, result, created, first, n_items, asked = raw
        return StoredRun(
            status.decode(),
            request or b"{}",
            input_ or b"",
            result or b"",
            int(created or 0),
            int(first or 0),
            int(n_items or 0),
            int(asked or 0),
        )

    async def asked(self, keys: SessionKeys, run_id: str, stored: StoredRun) -> list[tuple[str, bytes]]:
        """(id, public JSON) of the items of a run's input, without those that were deleted since."""
        if stored.input:
            given = [Item.given(data, run_id, stored.first + i) for i, data in enumerate(orjson.loads(stored.input))]
        else:
            lines = await self.items(keys, stored.first, stored.first + stored.asked)
            given = [Item.decode(line) for _, line in lines]
        return [(item.id, item.raw) for item in given]

    async def delete_run(self, keys: SessionKeys, run_id: str) -> str:
        """Forget an ended run: `ok`, `missing`, `running`, or `in_doubt`, where its journal is still needed."""
        run = keys.run(run_id)
        where = (keys.hash, run.hash, run.effects, run.events)
        unit = Unit(keys.tag).call(self._redis.scripts["delete_run"], where, known=SCHEMA_VERSION, run_id=run_id)
        reply = (await self._redis.execute(unit))[0]
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"delete {run_id}")
        return str(reply[0].decode())

    async def cancel(self, keys: SessionKeys, run_id: str, result: bytes, mode: str = "1") -> str:
        """Ask for the end of a run: `asked`, `cancelled` (it was waiting), `missing`, or the status it ended with.

        `mode`: `rollback` to drop its output, where that is still possible.
        """
        unit = Unit(keys.tag).call(
            self._redis.scripts["cancel"],
            (keys.hash, keys.run(run_id).hash),
            known=SCHEMA_VERSION,
            session_id=keys.id,
            run_id=run_id,
            mode=mode,
            result=result,
            ttl=self._ttl,
        )
        reply = (await self._redis.execute(unit))[0]
        if reply[0] in {b"newer", b"older"}:
            raise unexpected(reply, f"cancel {run_id}")
        return str(reply[-1].decode())
