"""What is done to whom, and when: a function of the seed alone. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["KINDS", "Fault", "schedule"]

KINDS = {"kill": 30, "stop": 20, "freeze": 10, "half_open": 15, "lost_reply": 25}
"""By kind, how likely. `kill`: SIGKILL to a pod, which is started again. `stop`: SIGSTOP, then SIGCONT. `freeze`: the
same for Redis. `half_open`: the pod's links to Redis swallow everything, then break. `lost_reply`: Redis does what
it is asked, and the link breaks before the pod is told."""
_LASTS_S = {"stop": (0.5, 4.0), "freeze": (0.3, 2.5), "half_open": (0.5, 4.0)}
_PAUSE_S = (0.3, 2.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at_s` after the beginning, for `for_s` where it lasts."""

    at_s: float
    kind: str
    pod: int
    for_s: float


def schedule(seed: int, seconds: float, pods: int) -> list[Fault]:
    """The faults of a run, in order of time; every kind once before any comes twice."""
    chance = random.Random(f"faults {seed}")
    first = list(KINDS)
    chance.shuffle(first)
    faults: list[Fault] = []
    at_s = chance.uniform(*_PAUSE_S)
    while at_s < seconds:
        kind = first.pop() if first else chance.choices(list(KINDS), list(KINDS.values()))[0]
        low, high = _LASTS_S.get(kind, (0.0, 0.0))
        faults.append(Fault(round(at_s, 3), kind, chance.randrange(pods), round(chance.uniform(low, high), 3)))
        at_s += chance.uniform(*_PAUSE_S)
    return faults
