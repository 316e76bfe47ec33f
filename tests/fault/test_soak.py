"""A short soak: every kind of fault under a load that knows what must come of it. `make soak` is a longer one."""

from __future__ import annotations

import os

import pytest
from loadtest.chaos.soak import Plan, soak


@pytest.mark.timeout(180)
async def test_nothing_is_violated() -> None:
    """Turns, effects, logs, queue and keys, after kills, stops, freezes, half-open links and lost replies."""
    report = await soak(Plan(seed=int(os.environ.get("AGENTRT_SOAK_SEED", "1")), seconds=12))
    assert not report["violations"], report
    assert report["operations"]["ok"] > 10 and report["effects that happened"] > 10, report
    assert len(report["faults"]) == 5, report
