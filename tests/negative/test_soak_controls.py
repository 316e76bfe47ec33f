"""Negative controls of the soak: over pods without a guard the same driver, with the same checks, finds something."""

from __future__ import annotations

import os
import time

import pytest
from loadtest.chaos.soak import Plan, soak

FULL = os.environ.get("AGENTRT_FULL") == "1"
"""All guards that the soak stands for, as `make negative` has it; else one."""
FOUND = {
    "intent": (("kill", "stop"), "happened 2 times"),
    "fence": (("stop",), " items, and wrote "),
    "op_tokens": (("lost_reply",), "was never closed"),
    "sweep": (("kill", "stop"), "not at rest"),
}
"""By guard: the faults that it is against, and what at least one of the violations says. Other faults beside them would
only make it rarer: on a machine with time to spare eight seconds of all were not enough."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("guard", FOUND if FULL else ["intent"])
async def test_the_soak_notices_a_missing_guard(guard: str) -> None:
    """Which of its runs it is that finds it, chance decides; hardly ever is one not enough."""
    begun, (kinds, said) = time.monotonic(), FOUND[guard]
    for seed in range(1, 6):
        report = await soak(Plan(seed=seed, seconds=20 if FULL else 8, kinds=kinds, rest_s=10, guard=guard))
        if any(said in one for one in report["violations"]):
            print(f"{guard} is missed after {time.monotonic() - begun:.0f} s, in run {seed}")
            return
    pytest.fail(f"nothing was found: {report}")
