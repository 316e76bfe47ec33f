"""A master that Sentinels watch is lost under load: pods find the new one, and what was acknowledged is there."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.load import Load
from tests.harness.pod import Pod
from tests.harness.runs import wait_until
from tests.harness.sentinels import Watched

OURS_S = 5.0
"""From the Sentinels' naming a new master to the first turn on it; half a second on an idle machine."""


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Watched(replicas=2) as watched:
        yield watched


@pytest.fixture(scope="module")
def pods(watched: Watched) -> Iterator[list[Pod]]:
    """Two, which tell the end of a turn when one replica has it."""
    env = {"AGENTRT_WAIT_REPLICAS": "1", "AGENTRT_WAIT_TURNS": "on"}
    with ExitStack() as stack:
        pods = [Pod(watched.url, name=name, env=env) for name in ("s-a", "s-b")]
        for pod in pods:
            stack.callback(pod.stop)
            pod.start(wait=False)
        for pod in pods:
            pod.wait_ready()
        yield pods


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_lost_master_is_replaced_under_load(watched: Watched, pods: list[Pod], how: signal.Signals) -> None:
    """The gap ends soon after the Sentinels have named another master; readiness, wake-ups and turns follow to it."""
    watched.wait_settled()
    old = watched.now
    with Load(pods) as load:
        load.wait_answered(time.monotonic(), 20, 30)
        old.signal(how)
        lost_at = time.monotonic()
        wait_until(lambda: watched.named() not in {None, old.port}, 30, "a fail-over")
        named_at = time.monotonic()
        ours_s = load.wait_answered(named_at, 1, 30)
        print(f"gap {named_at - lost_at + ours_s:.2f} s, of which Sentinels {named_at - lost_at:.2f} s")
        assert ours_s < OURS_S
        load.wait_answered(named_at, 20, 30)
        wait_until(lambda: all(pod.ready() for pod in pods), 10, "readiness")
        with watched.now.client() as client:
            wait_until(lambda: len(client.pubsub_channels("agentrt:pod:*")) == 2, 10, "both subscriptions")
        load.stop()
        assert load.lost() == []
    assert all(one.startswith("503") for one in load.refused), load.refused
    if how == signal.SIGKILL:
        old.restart()
    else:
        old.signal(signal.SIGCONT)


def test_a_demoted_master_is_left(watched: Watched) -> None:
    """`SENTINEL FAILOVER`: the old master takes writes until it hears of it, and replicas that stay with it so long
    acknowledge them. Whoever waits for all replicas loses nothing; the old master serves nobody any more."""
    watched.wait_settled()
    old = watched.now
    env = {"AGENTRT_WAIT_REPLICAS": "2", "AGENTRT_WAIT_TURNS": "on"}
    with Pod(watched.url, name="s-c", env=env) as pod, Load([pod], 2) as load:
        load.wait_answered(time.monotonic(), 10, 30)
        with watched.sentinels[0].client() as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", "state")
        wait_until(lambda: watched.named() not in {None, old.port}, 30, "a fail-over")
        load.wait_answered(time.monotonic(), 10, 20)
        with old.client() as client:
            names = lambda: [one["name"] for one in client.client_list() if one["name"].startswith("agentrt-s-")]  # noqa: E731
            wait_until(lambda: not names(), 10, "pods' leaving the old master")
        load.stop()
        assert load.lost() == []
