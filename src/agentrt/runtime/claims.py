"""Going on with runs whose owner is gone: found by this pod's worker, or by somebody who depends on them."""

from __future__ import annotations

import logging
import time

from agentrt.agent import Effect
from agentrt.errors import SchemaNewer
from agentrt.runtime.errands import ingest_job
from agentrt.runtime.log import RunLog
from agentrt.runtime.runs import Place, Runs
from agentrt.runtime.services import Services
from agentrt.store.begin import Waiting
from agentrt.store.journal import read_effects
from agentrt.store.keys import SessionKeys, lease_member, new_id, parse_lease_member
from agentrt.store.ownership import Owned, Owner
from agentrt.store.queue import Urgency

__all__ = ["Claims"]

log = logging.getLogger("agentrt.claims")

_SILENCE_S = 1.0
"""A pod that has had no subscription for this long seems gone; a living one takes up a broken one at once."""
_LOOK_AGAIN_S = 2.0
_PUT_BACK_MS = 1_000
"""So long is a run left alone that a pod took and cannot read."""
_PARK_MS = 1_000
"""A slot is held for an open intent that has no longer to live than this; for others the run is parked."""


class Claims:
    """Displaces owners that are gone, and puts their runs to work here."""

    def __init__(self, services: Services, runs: Runs) -> None:
        self._services = services
        self._runs = runs
        self._silent: dict[str, tuple[float, float]] = {}
        """Pods without a subscription: since when, and when that was last seen."""

    async def recover(self, member: bytes) -> None:
        """Go on with a run that was taken from the queue; drop the entry where there is nothing to go on with."""
        services = self._services
        try:
            tenant, session, run, token = parse_lease_member(member)
            keys = SessionKeys(tenant, session)
        except ValueError:
            log.error("not a queue entry: %r", member)
            services.leases.end(member)
            return
        await self._claim(keys, Owner(run, token, ""), early=False)

    async def look_after(self, session: SessionKeys, owner: Owner) -> None:
        """Claim a run whose owner is gone, and go on with it here, or wherever there is room."""
        services = self._services
        theirs = lease_member(session, owner.run, owner.token)
        left_ms = await services.leases.left_ms(theirs)
        if left_ms is None:
            return  # in the queue: the next pod with room takes it
        early = left_ms > 0
        if early and not await self._vanished(owner.pod):
            return
        if self._runs.free > 0:
            await self._claim(session, owner, early=early)
        elif not early:
            await services.queue.enqueue(theirs, Urgency.RECOVERED)

    async def _claim(self, session: SessionKeys, owner: Owner, *, early: bool) -> None:
        services, token = self._services, new_id()
        theirs, mine = (lease_member(session, owner.run, name) for name in (owner.token, token))
        entered = services.leases.entering(mine)  # the lease first, the session second, both in one write
        try:
            outcome = await services.sessions.claim(session, owner, token, early=early, behind=entered)
        except BaseException as error:
            entered.abandon()
            if isinstance(error, SchemaNewer):
                services.leases.end(mine)
                await self._put_back(theirs, early=early)
                log.warning("run %s: %s", owner.run, error)
                return
            raise
        await entered
        if not isinstance(outcome, Owned):
            services.leases.end(mine)
            if outcome is None and not early:
                # It ran out, and its holder owns nothing any more. If the run has ended, what was to be done after it
                # may have been lost with its pod: whoever does it looks whether it was.
                services.jobs.finish(session.tenant, [ingest_job(session, owner.run)], theirs)
            # Whoever is the owner must not be without a lease, or nobody would miss him: to look enters one.
            live = outcome.live if isinstance(outcome, Waiting) else outcome
            if live is not None and live.token:
                await services.leases.left_ms(lease_member(session, live.run, live.token))
            if isinstance(outcome, Owner):
                services.leases.end(theirs)
            self._count("waiting" if isinstance(outcome, Waiting) else "gone")
            return
        services.leases.end(theirs)
        services.telemetry.begins.labels("claimed").inc()
        log.info("claimed run %s, attempt %d", owner.run, outcome.attempt)
        if not await self._parked(outcome):
            self._count("claimed")
            self._runs.start(Place(session, owner.run, outcome))

    async def _put_back(self, theirs: bytes, *, early: bool) -> None:
        """Leave a run to a pod that knows its session's schema: soon, but not in a circle between the others."""
        if not early:
            await self._services.leases.rest(theirs, _PUT_BACK_MS)
        self._count("put_back")

    async def _parked(self, owned: Owned) -> bool:
        """Leave a run alone until the effects that its dead owner had under way may be judged; no slot is held for it.

        Whoever reads its events is told.
        """
        assert owned.record is not None
        journal = read_effects(owned.record["effects"]).values()
        open_until = {
            planned.tool: intent.lock_until_ms
            for planned, intent, outcome in journal
            if outcome is None and intent is not None and planned.effect != Effect.READ_ONLY
        }
        until_ms = max(open_until.values(), default=0)
        services = self._services
        if not open_until or until_ms - await services.journal.now_ms(owned) < _PARK_MS:
            return False
        logged = int(owned.record["log"])
        if logged >= 0:  # else nobody has seen anything of it, and its log begins with the next attempt
            told = RunLog(services.journal, owned, logged=logged)
            for tool, lock_until_ms in open_until.items():
                told.add("agentrt:recovering", {"tool": tool, "lock_until_ms": lock_until_ms})
            batch = told.batch()
            told.close()
            await services.journal.emit(owned, batch)
        await self._runs.park(owned, until_ms)
        self._count("parked")
        log.info("run %s is parked: effects of its dead owner may be under way", owned.run.id)
        return True

    async def _vanished(self, pod: str) -> bool:
        """Whether a pod has not been listening for a while. It may live all the same: then its fence stops it."""
        asked = time.monotonic()
        if pod == self._services.config.pod or await self._services.notices.listening(pod):
            self._silent.pop(pod, None)
            return False
        # Read behind the look, with none in between: many look at once, and all must count from the first of them.
        since, looked = self._silent.get(pod, (asked, asked))
        if asked - looked > _LOOK_AGAIN_S:
            since = asked  # nobody looked for a while: what was seen then says nothing about the time between
        self._silent[pod] = (min(since, asked), max(looked, asked))
        return asked - since >= _SILENCE_S

    def _count(self, outcome: str) -> None:
        self._services.telemetry.claims.labels(outcome).inc()
