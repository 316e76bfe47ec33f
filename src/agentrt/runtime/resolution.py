"""Saying what became of an effect in doubt: the model is told before the next turn, a blocked session goes on."""

from __future__ import annotations

from typing import Any

import orjson

from agentrt.records import Request, item_id
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.response import response_id
from agentrt.store.begin import Begin
from agentrt.store.doubts import Doubted, Doubts, Resolution
from agentrt.store.keys import derive_id, new_id

__all__ = ["continuation", "report", "resolve"]

_NUMBER = "@number@"
"""Stands where the number of the item goes, which is known when it enters the history."""


async def resolve(doubts: Doubts, doubted: Doubted, happened: bool, output: Any, by: str) -> Resolution | None:
    """Keep what became of an effect. The first resolution stands; None where it is not in doubt any more."""
    resolution = Resolution(happened, output if happened else None, by, wall_ms())
    return await doubts.resolve(doubted.place, resolution, _note(doubted, resolution))


def _note(doubted: Doubted, resolution: Resolution) -> tuple[bytes, bytes]:
    """The item that tells the model, as stored, around its number."""
    planned = doubted.planned
    text = f"The outcome of the earlier call {planned.tool}({planned.arguments}) is known now: "
    if resolution.happened:
        text += f"it took effect. Its output: {orjson.dumps(resolution.output).decode()}"
    else:
        text += "it did not take effect."
    item = {
        "id": item_id("message", doubted.place.run, _NUMBER),
        "type": "message",
        "role": "developer",
        "status": "completed",
        "content": [{"type": "input_text", "text": text}],
    }
    before, _, after = orjson.dumps(item).partition(_NUMBER.encode())
    return before, after


def continuation(doubted: Doubted) -> Begin | None:
    """The run that goes on where the effect had stopped its session; None where it had not.

    Its id follows from the run that was stopped: whoever begins it, and however often, there is one.
    """
    if not doubted.blocking:
        return None
    place = doubted.place
    request = Request.decode(doubted.request)
    run = derive_id(place.tenant, place.session, place.run, "resolved")
    return Begin(
        session=place.keys,
        run=run,
        token=new_id(),
        fingerprint=f"resolved/{place.run}",
        agent=request.agent,
        request=doubted.request,
        input=b"[]",
        user=request.user,
        by_key=True,
        alone=request.alone,
    )


def report(doubted: Doubted) -> dict[str, Any]:
    """What an operator sees of an effect. Times in ms since the epoch."""
    place, planned, late, known = doubted.place, doubted.planned, doubted.late_result, doubted.resolution
    return {
        "id": str(place),
        "tenant": place.tenant,
        "conversation": f"conv_{place.session}",
        "response": response_id(place.session, place.run),
        "tool": planned.tool,
        "effect": planned.effect,
        "arguments": planned.arguments,
        "idempotency_key": planned.key,
        "fencing_token": planned.fence,
        "state": "in_doubt" if known is None else "resolved",
        "blocks_the_conversation": doubted.blocking and known is None,
        "reason": doubted.outcome.error,
        "planned_at": planned.at,
        "in_doubt_since": doubted.outcome.at,
        "pod": doubted.outcome.pod,
        "attempt": doubted.outcome.attempt,
        "late_result": None if late is None else {"output": late.output, "at": late.at, "pod": late.pod},
        "resolution": None
        if known is None
        else {"happened": known.happened, "output": known.output, "by": known.by, "at": known.at},
    }
