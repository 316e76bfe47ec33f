"""Negative controls of the soak: over pods without a guard the same driver, with the same checks, finds something."""

from __future__ import annotations

import os
import time

import pytest
from loadtest.chaos.soak import Plan, soak

FULL = os.environ.get("AGENTRT_FULL") == "1"
"""All guards that the soak stands for, as `make negative` has it; else one."""
FOUND = {"intent": "happened 2 times", "fence": "conv_", "op_tokens": "conv_", "sweep": "not at rest"}
"""By guard: what at least one of the violations says."""
KINDS = ("kill", "stop", "freeze", "half_open", "lost_reply")
"""The faults that the guards are against."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("guard", FOUND if FULL else ["intent"])
async def test_the_soak_notices_a_missing_guard(guard: str) -> None:
    """Which of its runs it is that finds it, chance decides; hardly ever is one not enough."""
    begun = time.monotonic()
    for seed in range(1, 6):
        report = await soak(Plan(seed=seed, seconds=8, kinds=KINDS, rest_s=10, guard=guard))
        if any(FOUND[guard] in one for one in report["violations"]):
            print(f"{guard} is missed after {time.monotonic() - begun:.0f} s, in run {seed}")
            return
    pytest.fail(f"nothing was found: {report}")
