"""A master that Sentinels watch is lost under load: pods find the new one, and go on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.harness.load import Load
from tests.harness.pod import Pod
from tests.harness.runs import wait_until
from tests.harness.sentinels import Watched


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


OURS_S = 5.0
"""From the Sentinels' naming a new master to the first turn on it; about one second on an idle machine."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_lost_master_is_replaced_under_load(watched: Watched, how: signal.Signals) -> None:
    """The gap ends soon after the Sentinels have named another master; readiness, wake-ups and turns follow to it."""
    with Pod(watched.url, name="s-a") as a, Pod(watched.url, name="s-b") as b, Load([a, b]) as load:
        load.wait_answered(time.monotonic(), 20, 30)
        watched.master.signal(how)
        lost_at = time.monotonic()
        wait_until(lambda: watched.named() == watched.replicas[0].port, 30, "a fail-over")
        named_at = time.monotonic()
        load.wait_answered(named_at, 1, OURS_S)
        gap_s = load.wait_answered(lost_at + 0.5, 20, 30) + 0.5
        print(f"gap {gap_s:.2f} s, of which Sentinels {named_at - lost_at:.2f} s")
        wait_until(lambda: a.ready() and b.ready(), 10, "readiness")
        with watched.replicas[0].client() as client:
            wait_until(lambda: len(client.pubsub_channels("agentrt:pod:*")) == 2, 10, "both subscriptions")
    assert all(one.startswith("503") for one in load.refused), load.refused


def test_a_demoted_master_is_left_at_its_first_refusal(watched: Watched) -> None:
    """A planned fail-over breaks no connection by itself: READONLY does it, and no turn fails."""
    with Pod(watched.url, name="s-c") as pod, Load([pod], 2) as load:
        load.wait_answered(time.monotonic(), 10, 30)
        with watched.sentinels[0].client() as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", "state")
        wait_until(lambda: watched.named() == watched.replicas[0].port, 30, "a fail-over")
        load.wait_answered(time.monotonic(), 10, 20)
        load.stop()
        assert load.lost() == []
