"""What operators allow, as this pod knows it: API keys and quotas, at most a second old; runs count against them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from agentrt.errors import AgentrtError, StoreError, StoreUnavailable
from agentrt.store.access import Access, KeyRecord, Left, Quota, Quotas
from agentrt.store.begin import Begin
from agentrt.store.connection import Sent
from agentrt.tasks import end

__all__ = ["Allowance", "QuotaExceeded", "Ticket"]

log = logging.getLogger("agentrt.allowance")

_LOOK_S = 1.0
_HOLD_S = 60.0
_WORDS = {"runs": "runs in flight", "turns": "turns a minute", "tokens": "tokens a day"}


class QuotaExceeded(AgentrtError):
    """The tenant has used up what it may. `limit` of `kind` (`runs`, `turns`, `tokens`)."""

    def __init__(self, kind: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"the limit of {limit} {_WORDS[kind]} is reached")
        self.kind = kind
        self.limit = limit
        self.retry_after_s = retry_after_s


class Ticket:
    """A run on its way in: counted already, should it be allowed."""

    def __init__(self, allowance: Allowance, tenant: str, member: str, quota: Quota, sent: Sent) -> None:
        self._allowance = allowance
        self._tenant = tenant
        self._member = member
        self._quota = quota
        self._sent = sent
        self._counted = False
        self.left: Sequence[Left] = ()
        """What is left of the quota, once the run is allowed."""

    async def refusal(self) -> QuotaExceeded | None:
        """Why the run may not begin; it left with `begin`, so its answer is there by now."""
        verdict = await self._allowance.quotas.verdict(self._sent, self._quota)
        self._counted, self.left = verdict.outcome == "ok", verdict.left
        if verdict.outcome in {"ok", "known"}:
            return None
        error = QuotaExceeded(verdict.outcome, verdict.limit, verdict.retry_ms / 1000)
        self._allowance.remember(self._tenant, error)
        return error

    def drop(self) -> None:
        """The run was not begun after all. One of which that is not known goes on to count."""
        if self._counted:
            self._allowance.quotas.leave(self._tenant, self._member, undo=True)
        self._sent.abandon()


class Allowance:
    """Keys and quotas; `default` is the quota of tenants without one of their own."""

    def __init__(self, access: Access, quotas: Quotas, default: Quota) -> None:
        self._access = access
        self.quotas = quotas
        self._default = default
        self._rev = -1
        self._keys: dict[str, KeyRecord] = {}
        self._limits: dict[str, Quota] = {}
        self._refused: dict[str, tuple[float, QuotaExceeded]] = {}
        self._working: dict[tuple[str, str], None] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read all of it, and begin to look for changes. A Redis that is not there yet is no reason not to start."""
        try:
            await self._look()
        except StoreError as error:
            log.warning("keys and quotas are not known yet: %s", error)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_looking()), loop.create_task(self._keep_holding())]

    async def aclose(self) -> None:
        """Look no longer."""
        for task in self._tasks:
            await end(task)

    def key(self, identifier: str) -> KeyRecord | None:
        """An API key by its id. Raises `StoreUnavailable` while none could be read yet."""
        if self._rev < 0:
            raise StoreUnavailable("the API keys could not be read yet")
        return self._keys.get(identifier)

    def limits(self, tenant: str) -> Quota:
        """The quota of a tenant."""
        return self._limits.get(tenant, self._default)

    def enter(self, want: Begin) -> Ticket | None:
        """Count a run that is about to begin, in the same write; None where its tenant has no limit.

        Raises `QuotaExceeded` at once for a message that can be no other than a new one, while it is known to be in
        vain.
        """
        tenant = want.session.tenant
        quota = self.limits(tenant)
        if quota.unlimited:
            return None
        until, error = self._refused.get(tenant, (0.0, None))
        if error is not None and want.fresh and (left_s := until - time.monotonic()) > 0:
            raise QuotaExceeded(error.kind, error.limit, left_s)
        member = _member(want.session.id, want.run)
        return Ticket(self, tenant, member, quota, self.quotas.entering(tenant, member, quota))

    def remember(self, tenant: str, error: QuotaExceeded) -> None:
        """A tenant was refused: until then nothing new of it need be asked for. A place in flight may be free soon."""
        wait_s = 0.1 if error.kind == "runs" else error.retry_after_s
        self._refused[tenant] = (time.monotonic() + wait_s, error)

    def work(self, tenant: str, session: str, run: str, *, again: bool) -> None:
        """A run is being worked on here. `again`: it was begun elsewhere, and may have stopped to count."""
        if self.limits(tenant).unlimited:
            return
        self._working[tenant, _member(session, run)] = None
        if again:
            held = self._hold(tenant, [_member(session, run)], again=True)
            self._tasks.append(asyncio.get_running_loop().create_task(held))
            self._tasks = [task for task in self._tasks if not task.done()]

    def rest(self, tenant: str, session: str, run: str, tokens: int | None) -> None:
        """It is worked on here no longer. `tokens`: what it cost, if it has ended."""
        member = _member(session, run)
        self._working.pop((tenant, member), None)
        if tokens is not None and not self.limits(tenant).unlimited:
            self.quotas.leave(tenant, member, tokens=tokens)

    async def _look(self) -> None:
        if await self._access.rev() == self._rev:
            return
        granted = await self._access.read()
        self._keys, self._limits, self._rev = granted.keys, granted.quotas, granted.rev
        self._refused.clear()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except StoreError as error:
                log.debug("keys and quotas may be old: %s", error)

    async def _keep_holding(self) -> None:
        while True:
            await asyncio.sleep(_HOLD_S)
            await self._hold_all()

    async def _hold_all(self) -> None:
        for tenant in dict.fromkeys(tenant for tenant, _ in self._working):
            # Looked up now, not before the first tenant's: a run that ended meanwhile counts no longer.
            await self._hold(tenant, [member for whose, member in self._working if whose == tenant])

    async def _hold(self, tenant: str, members: list[str], *, again: bool = False) -> None:
        members = [member for member in members if (tenant, member) in self._working]
        if not members:
            return  # ended before this was sent
        try:
            await self.quotas.hold(tenant, members, again=again)
        except StoreError as error:
            log.debug("runs in flight not held: %s", error)


def _member(session: str, run: str) -> str:
    return f"{session}/{run}"
