"""Runs that were given up, for the operator: list them, try one again, drop one."""

from __future__ import annotations

from agentrt.errors import AgentrtError
from agentrt.store.begin import Busy
from agentrt.store.keys import SessionKeys, is_id, is_name, lease_member
from agentrt.store.leases import Leases
from agentrt.store.ownership import Owned
from agentrt.store.queue import DeadLetter, Queue, Urgency
from agentrt.store.sessions import Sessions

__all__ = ["DeadLetters", "NotRetried"]


class NotRetried(AgentrtError):
    """The run cannot be tried again, or not now."""


class DeadLetters:
    """Stands on the store alone: it serves no traffic and needs no agents."""

    def __init__(self, sessions: Sessions, leases: Leases, queue: Queue) -> None:
        self._sessions = sessions
        self._leases = leases
        self._queue = queue

    async def list(self) -> list[DeadLetter]:
        """All of them, the oldest first."""
        return await self._queue.dead()

    async def drop(self, name: str) -> bool:
        """Forget one; its run stays failed. Whether there was one."""
        return await self._queue.unbury(name)

    async def retry(self, name: str) -> None:
        """Queue a run again, with all its attempts. Raises `NotRetried`."""
        tenant, session, run = _parts(name)
        want = await self._sessions.revive(SessionKeys(tenant, session), run)
        if isinstance(want, str):
            raise NotRetried("its conversation or record is gone" if want == "missing" else f"the run is {want}")
        member = lease_member(want.session, want.run, want.token)
        await self._leases.entering(member)
        outcome = await self._sessions.begin(want)
        if not isinstance(outcome, Owned):
            self._leases.end(member)
            busy = isinstance(outcome, Busy)
            raise NotRetried(
                "its conversation is busy; try again later" if busy else "its conversation went on without it"
            )
        await self._sessions.hand_over(outcome, "waiting")
        await self._queue.enqueue(member, Urgency.INTERACTIVE)
        await self._queue.unbury(name)


def _parts(name: str) -> tuple[str, str, str]:
    parts = name.split("/")
    if len(parts) != 3 or not (is_name(parts[0]) and is_id(parts[1]) and is_id(parts[2])):
        raise NotRetried(f"{name!r} is not of the form tenant/session/run")
    return parts[0], parts[1], parts[2]
