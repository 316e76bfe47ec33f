"""Erasing a user: tombstone first, then the cascade, then a scan, then a signed receipt.

The tombstone is a new generation of the user's slot, in one script with the removal of all that was remembered: work
of the old generation that finishes later is refused. The cascade goes over the user's sessions with all that hangs on
them. The scan looks at every key for the ids of what was removed: ids of ours are random and stand in every copy.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentrt.errors import StoreError, StoreUnavailable
from agentrt.memory.dates import iso
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.errands import compact_job, erase_job, ingest_job, summary_job, user_job
from agentrt.runtime.recollections import Kept
from agentrt.store.jobs import Job
from agentrt.store.keys import SessionKeys, UserKeys, new_id
from agentrt.store.scan import Scan
from agentrt.tasks import end

__all__ = ["Erasure", "sign", "verify"]

log = logging.getLogger("agentrt.erasure")

_TOMBSTONE_S = 30 * 86_400
"""Longer than any work of the generation before may take."""
_ROUNDS = 20
_STAND_IN_S = 60.0
"""Behind the last sign of life of the pod that erases, another one goes on with it."""


@dataclass(slots=True)
class _Gone:
    """What a cascade removed."""

    sessions: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    items: int = 0
    jobs: int = 0
    dead_letters: int = 0


class Erasure:
    """The job `erase`, and the same on demand. `secret` signs the receipts; empty: they bear no signature."""

    def __init__(self, services: Kept, scan: Scan, secret: str) -> None:
        self._services = services
        self._scan = scan
        self._secret = secret

    async def erase(self, user: UserKeys, *, scan: bool = True, needles: Sequence[str] = ()) -> dict[str, Any]:
        """Erase a user; the receipt. `scan`: look at every key afterwards; `needles`: texts to look for as well.

        Raises `StoreUnavailable`: what had begun goes on by itself, and may be asked for again.
        """
        services = self._services
        erased = await services.users.erase(user, new_id(), _TOMBSTONE_S)
        # Should this pod die from here on. Not before: whatever another pod removes is not in the receipt.
        await services.jobs.later(erase_job(user), erased.at_ms + int(_STAND_IN_S * 1000))
        alive = asyncio.get_running_loop().create_task(self._postpone(erase_job(user), erased.at_ms))
        try:
            services.recollections.drop(f"{user.tenant}/{user.user}")
            gone = await self._cascade(user, erased.at_ms)
            looked: dict[str, Any] = {"keys": 0, "hits": None}
            if scan:
                wanted = [*gone.sessions, *gone.runs, *needles]
                keys, hits = await self._scan.look([text.encode() for text in wanted], beside=user.hash)
                looked = {"keys": keys, "hits": hits}
        finally:
            await end(alive)
        await services.jobs.drop(erase_job(user))
        receipt = {
            "user": user.user,
            "tenant": user.tenant,
            "generation": erased.gen,
            "erased": iso(erased.at_ms),
            "finished": iso(wall_ms()),
            "removed": {
                "facts": erased.facts,
                "turns": erased.memories,
                "vectors": erased.vectors,
                "conversations": len(gone.sessions),
                "runs": len(gone.runs),
                "items": gone.items,
                "jobs": gone.jobs,
                "dead_letters": gone.dead_letters,
            },
            "scan": looked,
        }
        return {**receipt, "signature": sign(receipt, self._secret)}

    async def _postpone(self, job: str, at_ms: int) -> None:
        """Put off the job that stands in, for as long as this pod is at work itself. `at_ms`: now, Redis' clock."""
        started = time.monotonic()
        while True:
            await asyncio.sleep(_STAND_IN_S / 4)
            passed_s = time.monotonic() - started
            try:
                await self._services.jobs.postpone(job, at_ms + int((passed_s + _STAND_IN_S) * 1000))
            except StoreError as error:
                log.warning("an erasure's stand-in is not put off: %s", error)

    async def go_on(self, job: Job) -> None:
        """End an erasure whose pod died: `erase/tenant/user`."""
        tenant, name = job.parts
        user = UserKeys(tenant, name)
        erased_at = await self._services.users.erased_at(user)
        if erased_at is not None:
            await self._cascade(user, erased_at)

    async def _cascade(self, user: UserKeys, erased_at: int) -> _Gone:
        """Remove the user's sessions of before the erasure; those that were on their way are found by looking again."""
        services, gone = self._services, _Gone()
        named = await services.jobs.of(user_job(user, ""), compact_job(user, ""))
        gone.jobs += await services.jobs.drop(*named)
        await services.jobs.drop_later(compact_job(user, ""))
        for _ in range(_ROUNDS):
            done = []
            for session in await services.users.sessions(user):
                keys = SessionKeys(user.tenant, session)
                header = await services.conversations.header(keys, alone=True)
                if header is None:
                    if await services.conversations.runs(keys):  # whoever deleted it came no further
                        await self._remove(keys, 0, gone)
                    else:
                        await services.conversations.delete(keys)  # what a copy to it may have left
                elif header.user == user.user:
                    if header.created_ms > erased_at:
                        continue  # of the new life
                    await self._remove(keys, header.seq, gone)
                done.append(session)
            await services.users.drop_sessions(user, done)
            if not done:
                if gone.sessions:
                    await services.jobs.forget_leases({f"{user.tenant}/{one}" for one in gone.sessions})
                return gone
        raise StoreUnavailable(f"user {user.user}: sessions keep coming while they are erased", "busy")

    async def _remove(self, keys: SessionKeys, seq: int, gone: _Gone) -> None:
        services = self._services
        runs = await services.conversations.runs(keys)
        effects = await services.conversations.effects(keys, runs)
        names = [f"{keys.tenant}/{keys.id}/{run}" for run in runs]
        jobs = await services.jobs.of(ingest_job(keys, ""), summary_job(keys, ""))
        await services.conversations.delete(keys)
        gone.jobs += await services.jobs.drop(*jobs)
        gone.dead_letters += await services.jobs.forget_runs(names, effects)
        gone.sessions.append(keys.id)
        gone.runs += runs
        gone.items += seq


def sign(receipt: dict[str, Any], secret: str) -> str | None:
    """HMAC-SHA256, hex, over the receipt as JSON with sorted keys; None without a secret."""
    if not secret:
        return None
    signed = {name: value for name, value in receipt.items() if name != "signature"}
    return hmac.new(secret.encode(), orjson.dumps(signed, option=orjson.OPT_SORT_KEYS), hashlib.sha256).hexdigest()


def verify(receipt: dict[str, Any], secret: str) -> bool:
    """Whether a receipt bears the signature of this secret."""
    expected = sign(receipt, secret)
    return expected is not None and hmac.compare_digest(expected, str(receipt.get("signature")))
