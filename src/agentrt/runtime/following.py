"""A run as those see it who did not begin it: its events and its end, from the log, on whatever pod they ask.

Whoever follows also looks after the owner that the run depends on, and goes on with a message that is left alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import orjson

from agentrt.records import TERMINAL
from agentrt.runtime import response
from agentrt.runtime.admission import FIRST_LOOK_S, POLL_S, Admission
from agentrt.runtime.claims import Claims
from agentrt.runtime.log import Frame
from agentrt.runtime.refusals import Leaving
from agentrt.runtime.runs import Place, Runs
from agentrt.runtime.services import Services
from agentrt.store.events import RunState
from agentrt.store.notices import heard

__all__ = ["Following"]


class Following:
    """Shows runs to those who follow them."""

    def __init__(self, services: Services, runs: Runs, claims: Claims, admission: Admission) -> None:
        self._services = services
        self._runs = runs
        self._claims = claims
        self._admission = admission

    async def result(self, place: Place) -> RunState | None:
        """Wait until a run has ended. None where there is no such run. Raises `Leaving` when this pod goes first."""
        last = None
        async for state, _ in self._states(place, -1):
            last = state
        if last is not None and last.status not in TERMINAL and self._runs.gone.is_set():
            raise Leaving("this pod goes away; the run goes on elsewhere")
        return last

    async def frames(self, place: Place, after: int = -1) -> AsyncGenerator[list[Frame], None]:
        """The events of a run numbered above `after`, in batches, until its end, or until this pod goes away."""
        async for state, logged in self._states(place, after):
            ended = state.status in TERMINAL
            if ended and (state.log < 0 or (after < 0 and not logged)):  # never logged, or the log has expired
                logged = list(response.replay(state.result))  # noqa: PLW2901
            batch: list[Frame] = []
            for position, frame in enumerate(logged):
                event = orjson.loads(frame)
                if event["sequence_number"] <= after:
                    continue
                last = ended and position == len(logged) - 1
                kind = event["type"]
                if kind in response.TERMINAL_EVENTS and not last:
                    continue  # the end of an attempt that was resumed
                after = event["sequence_number"]
                batch.append((after, kind, frame))
            if batch:
                yield batch

    async def _states(self, place: Place, after: int) -> AsyncGenerator[tuple[RunState, list[bytes]], None]:
        """What is new of a run, again and again until it has ended; looks after its owner meanwhile."""
        services, session, run = self._services, place.session, place.run
        notice = services.notices.subscribe(run)
        nowhere, pause_s = 0, FIRST_LOOK_S
        try:
            while True:
                state, logged = await services.events.read(session, run, after)
                if state is None:
                    return
                yield state, logged
                if state.status in TERMINAL or self._runs.gone.is_set():
                    return
                after = max(after, state.log)
                # Neither live nor in line, twice: whoever waited with it went away before its turn came.
                live = state.live
                nowhere = nowhere + 1 if (live is None or live.run != run) and not state.in_line else 0
                if nowhere > 1:
                    if place.message is None:
                        return
                    await self._admission.go_on(place.message, run)
                    nowhere = 0
                if not await heard(notice, pause_s) and live is not None:
                    await self._claims.look_after(session, live)
                pause_s = POLL_S
        finally:
            services.notices.unsubscribe(run, notice)
