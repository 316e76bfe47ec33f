"""The second step of a deletion: what the runs of a session left. Whoever finds it undone does it."""

from __future__ import annotations

from collections.abc import Sequence

from agentrt.store.connection import Redis, Unit
from agentrt.store.keys import SessionKeys

__all__ = ["left_runs", "remove_left"]

_PORTION = 200


async def left_runs(redis: Redis, keys: SessionKeys) -> list[str]:
    """The ids of a session's runs, the oldest first; also of those that a deletion has not come to."""
    raw: list[bytes] = (await redis.execute(Unit(keys.tag).command("LRANGE", keys.runs, 0, -1)))[0]
    return [one.decode() for one in raw]


async def remove_left(redis: Redis, keys: SessionKeys, runs: Sequence[str]) -> None:
    """Remove records, journals and logs of runs whose session was deleted; those of a session begun since stay."""
    script = redis.scripts["delete_left"]
    for start in range(0, len(runs), _PORTION):
        unit = Unit(keys.tag)
        for run_id in runs[start : start + _PORTION]:
            run = keys.run(run_id)
            unit.call(script, (keys.hash, keys.runs, run.hash, run.effects, run.events), run_id=run_id)
        await redis.execute(unit)
