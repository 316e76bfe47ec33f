"""Plays causes: all in order, the cause, its alerts in Alertmanager, and, where there is a cure, their end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import httpx2
from redis import RedisError

from tests.operate.causes import redis, runs
from tests.operate.causes.stage import CAUSES, Cause, Watch, staged, until

__all__ = ["CAUSES", "UNSEEN", "Result", "play", "play_all"]

UNSEEN = {
    "AgentrtRedisFsyncDelayed": "wants a disk that is slow",
    "AgentrtRedisSnapshotOld": "wants a snapshot two days old",
}
"""Alerts whose causes are not played here; `promtool` shows them to fire on made-up series."""

_PATIENCE_S = 120.0
_LISTED = (redis, runs)
"""Their acts are listed as the modules are imported."""


@dataclass
class Result:
    """What was seen: seconds from the cause to each of its alerts in Alertmanager, and from the cure to their end."""

    cause: Cause
    before: set[str] = field(default_factory=set)
    """What of these fired, or was about to, while all was in order."""
    fired: dict[str, float] = field(default_factory=dict)
    cured_s: float = math.nan
    error: str = ""

    @property
    def good(self) -> bool:
        return not self.error and not self.before and self.fired.keys() == set(self.cause.alerts)

    def rows(self) -> Iterator[str]:
        """Rows of the table in docs/operations.md, one an alert."""
        cured = "" if math.isnan(self.cured_s) else f"{self.cured_s:.0f} s"
        for alert in self.cause.alerts:
            took = f"{self.fired[alert]:.0f} s" if alert in self.fired else "did not fire"
            yield f"| `{alert}` | {self.cause.told} | {took} | {cured} |"


def play(cause: Cause, watch: Watch, patience_s: float = _PATIENCE_S) -> Result:
    """Play one cause on a stage of its own."""
    result = Result(cause)
    wanted = set(cause.alerts)
    try:
        with staged(cause, watch) as stage, closing(cause.act(stage)) as act:  # type: ignore[type-var]
            next(act)
            stage.seen()
            result.before = watch.pending(cause.name) & wanted
            next(act)
            begun = time.monotonic()

            def all_fired() -> bool:
                for alert in watch.firing(cause.name) & wanted - result.fired.keys():
                    result.fired[alert] = time.monotonic() - begun
                return result.fired.keys() == wanted

            until(all_fired, patience_s, " and ".join(sorted(wanted)))
            if next(act, "no cure") is None:
                result.cured_s = until(lambda: not watch.firing(cause.name) & wanted, patience_s, "their end")
    except (AssertionError, RuntimeError, httpx2.HTTPError, RedisError) as error:
        result.error = f"{type(error).__name__}: {error}"
    return result


def play_all(causes: Iterable[Cause], watch: Watch, at_once: int) -> Iterator[Result]:
    """Play several, some at a time; results in the order of the causes."""
    with ThreadPoolExecutor(at_once) as players:
        yield from players.map(lambda cause: play(cause, watch), causes)
