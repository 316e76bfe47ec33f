"""A short soak: every kind of fault under a load that knows what must come of it. `make soak` is a longer one."""

from __future__ import annotations

import os

import pytest
from loadtest.chaos.schedule import KINDS
from loadtest.chaos.soak import Plan, soak

_SEED = int(os.environ.get("AGENTRT_SOAK_SEED", "1"))


@pytest.mark.timeout(240)
async def test_nothing_is_violated() -> None:
    """Turns, effects, logs, queue and keys, after every kind of fault of pods, links, Redis, provider and clock."""
    report = await soak(Plan(seed=_SEED, seconds=12, pace=0.65))
    assert not report["violations"], report
    assert report["operations"]["ok"] > 10 and report["effects that happened"] > 10, report
    assert set(report["faults"]) == set(KINDS["single"]), report
    assert report["schema raised"] == 1, report


@pytest.mark.timeout(240)
@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
async def test_nothing_is_lost_with_a_master(topology: str) -> None:
    """A master is killed or frozen, and whoever was acknowledged waited for a replica: all of it is there."""
    kinds = ("kill", "kill_master" if topology == "sentinel" else "freeze_master", "cut")
    report = await soak(Plan(seed=_SEED, seconds=6, topology=topology, kinds=kinds, talkers=4, workers=2))
    assert not report["violations"], report
    assert report["operations"]["ok"] > 5 and report["fail-overs"] >= 1, report
