"""What is done to whom, and when: a function of the seed alone. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FAILOVERS", "KINDS", "Fault", "schedule"]

_PODS = {
    "kill": 30,
    "stop": 20,
    "rolling": 3,
    "clock": 10,
    "release": 4,
    "rate_limit": 6,
    "overloaded": 6,
    "cut_stream": 6,
}
"""Of every topology, how likely each is. `kill`: SIGKILL to a pod, which is started again. `stop`: SIGSTOP, then
SIGCONT. `rolling`: all pods, one after the other, end by SIGTERM and are started again. `clock`: a pod's wall clock
jumps by a minute. `release`: a pod ends by SIGTERM and comes back as one of the release before, or of this one; no more
once the schema is being raised. `rate_limit`, `overloaded`, `cut_stream`: a model's provider answers 429, 529, or half
an answer."""
_LINKS = {"freeze": 10, "half_open": 15, "lost_reply": 25, "slow_link": 8}
"""`freeze`: Redis is stopped and goes on. `half_open`: the pod's links to Redis swallow everything, then break.
`lost_reply`: Redis does what it is asked, and the link breaks before the pod is told. `slow_link`: replies are late."""
_MASTERS = {"blink": 8, "cut": 20, "kill_master": 6, "freeze_master": 6}
"""Where there is more than one Redis: `blink`: a master stops for less than its watchers notice. `cut`: a master closes
all connections of clients. `kill_master`, `freeze_master`: it is away until another is master, and comes back then."""
KINDS: Mapping[str, Mapping[str, int]] = {
    "single": {**_PODS, **_LINKS},
    "sentinel": {**_PODS, **_MASTERS},
    "cluster": {**_PODS, **_MASTERS, "move_slot": 8},
}
"""By topology: the kinds of faults, and how likely each is. `move_slot`: a slot wanders to another master."""
FAILOVERS = frozenset({"kill_master", "freeze_master"})
"""After these another server is the master, and the last writes that nobody waited for may be gone."""
_LASTS_S = {
    "stop": (0.5, 4.0),
    "freeze": (0.3, 2.5),
    "half_open": (0.5, 4.0),
    "slow_link": (0.5, 3.0),
    "blink": (0.1, 0.6),
    "freeze_master": (0.0, 2.0),
    "rate_limit": (0.5, 3.0),
    "overloaded": (0.5, 3.0),
    "cut_stream": (0.5, 3.0),
    "move_slot": (0.0, 0.5),
}
_PAUSE_S = (0.3, 2.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at_s` after the beginning, for `for_s` where it lasts. `target`: which pod, or which master."""

    at_s: float
    kind: str
    target: int
    for_s: float


def schedule(
    seed: int, seconds: float, targets: int, likely: Mapping[str, int] = KINDS["single"], pace: float = 1.0
) -> list[Fault]:
    """The faults of a run, in order of time; every kind once before any comes twice. `pace` stretches the pauses."""
    if not likely:
        return []
    chance = random.Random(f"faults {seed}")
    first = list(likely)
    chance.shuffle(first)
    faults: list[Fault] = []
    at_s = chance.uniform(*_PAUSE_S)
    while at_s < seconds:
        kind = first.pop() if first else chance.choices(list(likely), list(likely.values()))[0]
        low, high = _LASTS_S.get(kind, (0.0, 0.0))
        faults.append(Fault(round(at_s, 3), kind, chance.randrange(targets), round(chance.uniform(low, high), 3)))
        at_s += chance.uniform(*_PAUSE_S) * pace
    return faults
