"""Reading the event log of a run. A stream entry is a batch: its id is the last event's number + 1."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from agentrt.errors import NotAcknowledged, StoreUnavailable
from agentrt.records import TERMINAL
from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys
from agentrt.store.ownership import Owner, StoreConfig

__all__ = ["Events", "RunState"]


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands; `result` is the final response body, empty while it goes on."""

    status: str
    log: int
    result: bytes
    retry: bool
    live: Owner | None
    """Who works on the session; None when it is idle or gone."""
    in_line: bool
    """Whether somebody waits with the run behind a live one; a place that is merely kept is granted to nobody."""


class Events:
    """The log of a run, for those who follow it."""

    def __init__(self, redis: Redis, config: StoreConfig) -> None:
        self._redis = redis
        self._pod = config.pod
        self._acknowledge = config.acknowledge_turns

    async def read(self, keys: SessionKeys, run_id: str, after: int) -> tuple[RunState | None, list[bytes]]:
        """The run's state and its logged events numbered above `after`; asks to be told of new ones.

        State and events are of one instant or the events are newer, so a run that has ended has its whole log here.
        None where there is no such run. Where replicas are waited for at the end of turns, that of a run is not shown
        before they have it, whoever asks: raises `StoreUnavailable`.
        """
        run = keys.run(run_id)

        def asking(acknowledged: bool) -> Unit:
            script = self._redis.scripts["follow"]
            unit = Unit(keys.tag).call(script, (run.hash,), pod=self._pod, acknowledged=int(acknowledged))
            unit.command("XRANGE", run.events, f"({after + 1}" if after >= 0 else "-", "+")
            return unit.command("HMGET", keys.hash, "run", "owner", "pod", "waiters").acknowledge(acknowledged)

        reply, entries, (live, owner, pod, waiters) = await self._redis.execute(asking(False))
        if self._acknowledge and reply[0].decode() in TERMINAL:
            try:
                reply, entries, (live, owner, pod, waiters) = await self._redis.execute(asking(True))
            except NotAcknowledged as error:
                raise StoreUnavailable(f"run {run_id}: too few replicas have its end", error.reason) from None
        if reply[0] == b"missing":
            return None, []
        owner_now = Owner(live.decode(), owner.decode(), (pod or b"").decode()) if live and owner else None
        line = orjson.loads(waiters) if waiters and owner_now else []
        state = RunState(
            status=reply[0].decode(),
            log=int(reply[1]),
            result=reply[2],
            retry=reply[3] == b"1",
            live=owner_now,
            in_line=any(waiter[0] == run_id and waiter[4] for waiter in line),
        )
        frames: list[bytes] = []
        for _, fields in entries:
            frames += fields[1].split(b"\n")
        return state, frames
