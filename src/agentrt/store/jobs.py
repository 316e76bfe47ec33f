"""Jobs: work behind the turns that no client waits for. One sorted set by time is queue, lease and pause in one.

A job is a pointer: it says what to look at, never what is to be written, so it holds no content and may be looked at
twice. Its name has the kind first: `ingest/tenant/session/run`, `user/tenant/user`, ...
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import QueueKeys

__all__ = ["Backlog", "Buried", "Job", "Jobs"]


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was taken. `tries` includes this one; `mark` tells whether it was asked for again meanwhile."""

    name: str
    mark: str = "0"
    tries: int = 1

    @property
    def kind(self) -> str:
        """What is to be done."""
        return self.name.partition("/")[0]

    @property
    def parts(self) -> list[str]:
        """Where: what stands behind the kind."""
        return self.name.split("/")[1:]


@dataclass(frozen=True, slots=True)
class Buried:
    """A job that was given up, `at` ms since the epoch."""

    name: str
    reason: str
    tries: int
    at: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs that wait or are worked on, those among them that are late, by how much the latest is, and dead letters."""

    jobs: int
    late: int
    oldest_s: float
    buried: int


class Jobs:
    """Entering, taking and ending jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._names = names = QueueKeys()
        self._slot = names.slot
        self._entering = (names.leases, names.jobs, names.marks, names.paces, names.buried)

    def _finish(self, tenant: str, jobs: Sequence[str], member: bytes) -> Unit:
        script = self._redis.scripts["finish"]
        return Unit(self._slot).call(script, self._entering, jobs, member=member, tenant=tenant)

    async def enter(self, tenant: str, *jobs: str) -> None:
        """Have jobs done, soon."""
        await self._redis.execute(self._finish(tenant, jobs, b""))

    async def later(self, job: str, at_ms: int) -> None:
        """Have a job done at a time, ms since the epoch; where it waits for an earlier one already, then."""
        await self._redis.execute(Unit(self._slot).command("ZADD", self._names.later, "LT", at_ms, job))

    async def postpone(self, job: str, at_ms: int) -> None:
        """Have a job that waits for its time done at this one; nothing happens where it does not wait any more."""
        await self._redis.execute(Unit(self._slot).command("ZADD", self._names.later, "XX", at_ms, job))

    async def drop_later(self, prefix: str) -> None:
        """Remove what waits for its time and begins with `prefix`, which has no pattern's marks in it."""
        cursor = b"0"
        while True:
            unit = Unit(self._slot).command("ZSCAN", self._names.later, cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
            cursor, found = (await self._redis.execute(unit))[0]
            if found:
                await self._redis.execute(Unit(self._slot).command("ZREM", self._names.later, *found[::2]))
            if cursor == b"0":
                return

    def finish(self, tenant: str, jobs: Sequence[str], member: bytes) -> None:
        """A run has ended: its lease goes and its jobs are entered. Not waited for: should this get lost, the lease
        runs out, and whoever finds the run ended does the same again."""
        self._redis.post(self._finish(tenant, jobs, member))

    async def take(self, count: int, lease_ms: int) -> list[Job]:
        """Jobs whose time has come, at most `count`, each under a lease."""
        names = self._names
        unit = Unit(self._slot).call(
            self._redis.scripts["job_take"],
            (names.jobs, names.marks, names.later, names.paces, names.buried),
            count=count,
            lease_ms=lease_ms,
        )
        raw: list[bytes] = (await self._redis.execute(unit))[0]
        return [Job(raw[i].decode(), raw[i + 1].decode(), int(raw[i + 2])) for i in range(0, len(raw), 3)]

    async def done(self, job: Job) -> bool:
        """A job is done; False when it was asked for again meanwhile, and waits."""
        names = self._names
        unit = Unit(self._slot).call(
            self._redis.scripts["job_done"], (names.jobs, names.marks), job=job.name, mark=job.mark
        )
        return bool((await self._redis.execute(unit))[0][0] == b"done")

    async def again(self, job: Job, delay_s: float, *, counts: bool = True) -> None:
        """Have a job done later; `counts`: this was a try."""
        await self._fail(job, delay_s, b"", counts)

    async def bury(self, job: Job, reason: str, at_ms: int) -> bool:
        """Give a job up. It comes back when it is asked for again, or by `revive`; False when it was asked for since it
        was taken, and waits."""
        letter = orjson.dumps({"reason": reason, "tries": job.tries, "at": at_ms})
        return await self._fail(job, 0, letter, True) != b"again"

    async def _fail(self, job: Job, delay_s: float, letter: bytes, counts: bool) -> bytes:
        names = self._names
        unit = Unit(self._slot).call(
            self._redis.scripts["job_fail"],
            (names.jobs, names.marks, names.buried),
            job=job.name,
            mark=job.mark,
            delay_ms=int(delay_s * 1000),
            letter=letter,
            counts=int(counts),
        )
        return bytes((await self._redis.execute(unit))[0][0])

    async def buried(self) -> list[Buried]:
        """The dead letters, the oldest first."""
        raw = (await self._redis.execute(Unit(self._slot).command("HGETALL", self._names.buried)))[0]
        found = [Buried(raw[i].decode(), **orjson.loads(raw[i + 1])) for i in range(0, len(raw), 2)]
        return sorted(found, key=lambda letter: letter.at)

    async def revive(self, name: str) -> None:
        """Ask for a buried job again."""
        await self.enter(name.split("/")[1], name)

    async def drop(self, *names: str) -> int:
        """Remove jobs and dead letters of these names, also where they wait for their time; returns how many jobs and
        letters there were."""
        if not names:
            return 0
        keys = self._names
        unit = Unit(self._slot).command("ZREM", keys.jobs, *names).command("HDEL", keys.buried, *names)
        unit.command("HDEL", keys.marks, *names, *(f"{name}#" for name in names)).command("ZREM", keys.later, *names)
        waiting, buried, *_ = await self._redis.execute(unit)
        return int(waiting) + int(buried)

    async def of(self, *prefixes: str) -> list[str]:
        """The names of all jobs and dead letters that begin with one of these."""
        keys = self._names
        unit = Unit(self._slot).command("ZRANGE", keys.jobs, 0, -1).command("HKEYS", keys.buried)
        waiting, buried = await self._redis.execute(unit)
        return [name for raw in (*waiting, *buried) if (name := raw.decode()).startswith(prefixes)]

    async def forget_leases(self, sessions: Collection[str]) -> None:
        """Remove the entries of erased sessions (`tenant/session`) from the timer and from the queue of runs."""
        keys, wanted = self._names, {name.encode() for name in sessions}
        for key in (keys.leases, keys.ready, keys.since):
            entries: list[bytes] = (await self._redis.execute(Unit(self._slot).command("ZRANGE", key, 0, -1)))[0]
            going = [entry for entry in entries if b"/".join(entry.split(b"/")[:2]) in wanted]
            for start in range(0, len(going), 500):
                await self._redis.execute(Unit(self._slot).command("ZREM", key, *going[start : start + 500]))

    async def forget_runs(self, runs: Sequence[str], effects: Sequence[str]) -> int:
        """Remove what the queue's slot keeps of erased runs (`tenant/session/run`): their dead letters, the index of
        their effects in doubt (`<run>/<effect key>`). Returns how many dead letters there were."""
        keys, gone = self._names, 0
        for start in range(0, len(runs), 500):
            reply = await self._redis.execute(Unit(self._slot).command("HDEL", keys.dead, *runs[start : start + 500]))
            gone += int(reply[0])
        for start in range(0, len(effects), 500):
            await self._redis.execute(Unit(self._slot).command("ZREM", keys.doubts, *effects[start : start + 500]))
        return gone

    async def backlog(self) -> Backlog:
        """What there is to do now."""
        keys = self._names
        unit = Unit(self._slot).command("ZCARD", keys.jobs).command("ZRANGE", keys.jobs, 0, 0, "WITHSCORES")
        unit.command("HLEN", keys.buried).command("TIME")
        replies: list[Any] = await self._redis.execute(unit)
        count, oldest, buried, (seconds, micros) = replies
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        late = (await self._redis.execute(Unit(self._slot).command("ZCOUNT", keys.jobs, "-inf", now_ms)))[0]
        oldest_s = max(0.0, (now_ms - float(oldest[1])) / 1000) if oldest else 0.0
        return Backlog(int(count), int(late), oldest_s, int(buried))
