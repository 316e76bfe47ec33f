"""A master that Sentinels watch is lost under load: pods find the new one, and what was acknowledged is there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.load import Load
from tests.harness.pod import Pod
from tests.harness.runs import wait_until
from tests.harness.sentinels import Watched

OURS_S = 5.0
"""From the Sentinels' naming a new master to the first turn on it; half a second on an idle machine."""


@contextmanager
def watched_by_pod(replicas: int, waited_for: int) -> Iterator[tuple[Watched, Pod]]:
    """A fresh fleet, and a pod that tells the end of a turn when so many replicas have it."""
    env = {"AGENTRT_WAIT_REPLICAS": str(waited_for), "AGENTRT_WAIT_TURNS": "on"}
    with Watched(replicas) as watched, Pod(watched.url, name="s-a", env=env) as pod:
        yield watched, pod


full = pytest.mark.skipif(not os.environ.get("AGENTRT_FULL"), reason="`make failovers` runs it")
"""For what takes long: after a planned fail-over the old master is told only some ten seconds later."""


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=full), signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_lost_master_is_replaced_under_load(how: signal.Signals) -> None:
    """The gap ends soon after the Sentinels have named another master; readiness, wake-ups and turns follow to it."""
    with watched_by_pod(2, 1) as (watched, pod), Load([pod]) as load:
        load.wait_answered(time.monotonic(), 20, 30)
        watched.master.signal(how)
        lost_at = time.monotonic()
        wait_until(lambda: watched.named() not in {None, watched.master.port}, 30, "a fail-over")
        named_at = time.monotonic()
        ours_s = load.wait_answered(named_at, 1, 30)
        print(f"gap {named_at - lost_at + ours_s:.2f} s, of which Sentinels {named_at - lost_at:.2f} s")
        assert ours_s < OURS_S
        load.wait_answered(named_at, 20, 30)
        wait_until(pod.ready, 10, "readiness")
        with watched.now.client() as client:
            wait_until(lambda: len(client.pubsub_channels("agentrt:pod:*")) == 1, 10, "the subscription")
        load.stop()
        assert load.lost() == []
    assert all(one.startswith("503") for one in load.refused), load.refused


@full
def test_a_demoted_master_is_left() -> None:
    """`SENTINEL FAILOVER`: the old master takes writes until it hears of it, and replicas that stay with it so long
    acknowledge them. Whoever waits for all replicas loses nothing; the old master serves nobody any more."""
    with watched_by_pod(2, 2) as (watched, pod), Load([pod], 2) as load:
        load.wait_answered(time.monotonic(), 10, 30)
        with watched.sentinels[0].client() as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", "state")
        wait_until(lambda: watched.named() not in {None, watched.master.port}, 30, "a fail-over")
        load.wait_answered(time.monotonic(), 10, 30)
        with watched.master.client() as client:
            wait_until(lambda: b"agentrt-s-a" not in client.execute_command("CLIENT", "LIST"), 10, "the pod's leaving")
        load.stop()
        assert load.lost() == []
