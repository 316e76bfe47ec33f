"""What a client gets of its message's run: the events as they come about, or the final body once there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import orjson

from agentrt.http.errors import ApiError
from agentrt.http.surface import Surface
from agentrt.records import TERMINAL
from agentrt.runtime import response
from agentrt.runtime.admission import Place
from agentrt.runtime.log import Frame
from agentrt.runtime.turn import TurnEnd

__all__ = ["final", "live"]


async def final(to: Surface, place: Place) -> bytes:
    """The final response body of a place, worked on here or followed.

    Raises `ApiError` for a failure that may pass, so that clients send the message again.
    """
    if place.owned is not None:
        end = await to.admission.run(place)
        if end is not None:
            return _checked(end)
    state = await to.following.result(place)
    if state is None or state.status not in TERMINAL:
        # Deleted by a client, or begun on a master that is lost: nothing was acknowledged, so it may be sent again.
        raise ApiError(503, "server_error", "The run was removed while it went on.", retry_after_s=1)
    return _checked(TurnEnd(state.status, state.result, state.retry))


def _checked(end: TurnEnd) -> bytes:
    if not end.retryable:
        return end.result
    error = orjson.loads(end.result)["error"]
    status = 429 if error["code"] == "rate_limit_exceeded" else 503
    raise ApiError(status, error["code"], error["message"], retry_after_s=end.retry_after_s or 1)


async def live(to: Surface, place: Place) -> AsyncGenerator[list[Frame], None]:
    """The events of a place: from the run itself where it runs here from its beginning, else from its log."""
    last = -1
    if place.owned is not None and place.owned.record is None:
        heard: list[Frame] = []
        wake = asyncio.Event()

        def listen(frame: Frame) -> None:
            heard.append(frame)
            wake.set()

        task = to.admission.run_in_background(place, listen)
        task.add_done_callback(lambda _: wake.set())
        while True:
            await wake.wait()
            wake.clear()
            batch, heard[:] = list(heard), []
            if batch:
                last = batch[-1][0]
                yield batch
                if batch[-1][1] in response.TERMINAL_EVENTS:
                    return
            if task.done() and not heard:
                break  # another pod took the run, or Redis is away: the log goes on where this pod stopped
    elif place.owned is not None:
        to.admission.run_in_background(place)
    async for batch in to.following.frames(place, last):
        yield batch
